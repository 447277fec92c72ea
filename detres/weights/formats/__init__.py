"""Other toolkits' ways to write weights: their names there and back, and what their files imply about the model."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from detres.weights.formats import caffemodel, detectron2, mmdetection, msra, timm, torchvision
from detres.weights.formats.interface import Format, Implied
from detres.weights.formats.shapes import is_detector

FORMATS: dict[str, Format] = {
    module.NAME: module for module in (torchvision, detectron2, mmdetection, timm, msra, caffemodel)
}
# torchvision's names are detres's own, so that they alone do not tell who wrote a file.
_UNMISTAKABLE = ("detectron2", "mmdetection", "msra", "timm", "caffe")


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """The name of the format that a state dict is written in; None for detres's and torchvision's names."""
    return next((name for name in _UNMISTAKABLE if FORMATS[name].recognises(state)), None)


def kind_of(state: Mapping[str, Tensor]) -> Literal["detector", "classifier", "state_dict"]:
    """What a state dict in detres's names belongs to; state_dict for a backbone alone."""
    if is_detector(state):
        return "detector"
    return "classifier" if any(key.startswith("fc.") for key in state) else "state_dict"


__all__ = ["FORMATS", "Format", "Implied", "kind_of", "recognise"]
