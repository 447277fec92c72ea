"""By which views of an image a network is judged: from `eval.protocol` to loaders and what scores their images."""

from collections.abc import Sequence

from torch import nn

from detres import wiring
from detres.classifier import TenCrop, WholeImage
from detres.config import Config
from detres.config.data import ResizeShortest
from detres.config.train import MultiScaleProtocol, TenCropProtocol
from detres.data.loader import EvalLoader


def protocol_loaders(config: Config, dataset: wiring.AnyDataset) -> list[EvalLoader]:
    """One loader for each size at which the images are to be seen; those of all protocols but center only resize."""
    match config.eval.protocol:
        case TenCropProtocol(resize=shorter_side):
            return [_resizing_loader(config, dataset, shorter_side)]
        case MultiScaleProtocol(scales=scales):
            return [_resizing_loader(config, dataset, scale) for scale in scales]
        case _:
            return [wiring.build_eval_loader(config, dataset)]


def original_loader(config: Config, dataset: wiring.AnyDataset) -> EvalLoader:
    """The images as they are read, for a system that resizes them itself."""
    return _loader(config, dataset, [])


def with_protocol(model: nn.Module, config: Config) -> nn.Module:
    """The network that scores one loader's images by all their views at that size; of `center`, the model itself."""
    match config.eval.protocol:
        case TenCropProtocol(size=size):
            return TenCrop(model, size)
        case MultiScaleProtocol(flip=flip):
            return WholeImage(model, flip)
        case _:
            return model


def _resizing_loader(config: Config, dataset: wiring.AnyDataset, shorter_side: int) -> EvalLoader:
    return _loader(config, dataset, [ResizeShortest(type="resize_shortest", short=[shorter_side])])


def _loader(config: Config, dataset: wiring.AnyDataset, steps: Sequence[ResizeShortest]) -> EvalLoader:
    data = config.data.model_copy(update={"eval_transforms": list(steps)})
    return wiring.build_eval_loader(config.model_copy(update={"data": data}), dataset)
