"""From another toolkit's weights to a whole detres configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detres.config import Config, config_from_dict, config_to_dict, load_config
from detres.weights.formats import FORMATS
from detres.weights.formats.class_names import VOC_20
from detres.weights.formats.shapes import merge, num_classes
from detres.weights.imagenet import imagenet_ids
from detres.weights.report import WeightsError
from detres.weights.sources import TORCHVISION, LoadedWeights


def implied_config(found: LoadedWeights, base: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a model that another toolkit's file implies, completed by data and training of `base`.

    base: a path or the name of a shipped configuration; None: the recipe that the zoo names (the model is then as it
    says), or else ImageNet's, VOC's or COCO's. `overrides` as in load_config; they may change the model too. Raises
    WeightsError when the source says nothing of its model.
    """
    found = with_implied(found)
    assert found.implied is not None, "with_implied has seen to it"
    recipe = found.recipe if base is None else None
    name, settings_of = recipe or (base or _usual_base(found), ())
    settings = config_to_dict(load_config(name, settings_of).config)
    model = found.implied.model if recipe is None else _as_published(found.implied.model, settings["model"])
    return config_from_dict({**settings, "model": model}, found.source, overrides)


def _as_published(implied: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The zoo's settings of a model, which know more than its file does; the norms are those that the file has."""
    model = merge(implied, {**recipe, "weights": None})
    return merge(model, {"backbone": {"norm": implied["backbone"]["norm"], "weights": None}})


def with_implied(found: LoadedWeights) -> LoadedWeights:
    """The same weights with what they imply; of those in torchvision's names only if torchvision published them."""
    if found.implied is not None:
        return found
    if not found.source.startswith(TORCHVISION):
        raise WeightsError(
            f"{found.source}: does not tell what model it belongs to; expected a detres checkpoint, or a file of "
            "detectron2, mmdetection or MSRA. Say what it is: detres convert --from torchvision (or timm) FILE --to "
            "detres OUT, or name a configuration by --config"
        )
    torchvision = FORMATS["torchvision"]
    return replace(found, implied=torchvision.implied(torchvision.from_detres(found.state_dict), {}))


def class_names_of(found: LoadedWeights) -> tuple[str, ...]:
    """The class names of weights; ImageNet's ids for a classifier of 1000 classes, numbers where nobody tells."""
    if found.class_names:
        return found.class_names
    count = num_classes(found.state_dict)
    if found.kind != "detector" and count == len(imagenet_ids()):
        return imagenet_ids()
    return tuple(f"class {label}" for label in range(count))


def _usual_base(found: LoadedWeights) -> str:
    assert found.implied is not None
    if found.implied.model["type"] == "classifier":
        return "imagenet_r50.yaml"
    return "voc_r50.yaml" if found.class_names == tuple(VOC_20) else "coco_r50.yaml"
