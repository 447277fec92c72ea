"""From another toolkit's weights to a whole detres configuration."""

import re
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
    if found.implied.eval_transforms is not None:
        settings["data"]["eval_transforms"] = list(found.implied.eval_transforms)
    model = found.implied.model if recipe is None else _as_published(found.implied.model, settings["model"])
    return config_from_dict({**settings, "model": model}, found.source, overrides)


def assumptions(
    found: LoadedWeights, config: Config, overrides: Sequence[str] = (), base: str | None = None
) -> tuple[str, ...]:
    """What neither the file of the weights nor `overrides` told, and `config` therefore takes for granted; sentences.

    Nothing for a checkpoint of detres, and for the zoo's, whose publishers have told.
    """
    if found.config is not None or (found.recipe is not None and base is None):
        return ()
    implied = with_implied(found).implied
    assert implied is not None, "with_implied has seen to it"
    said = list(implied.assumed)
    if implied.eval_transforms is None:
        steps = ", ".join(_words(step.model_dump(exclude_unset=True)) for step in config.data.eval_transforms)
        said.append(f"images go through {steps} (data.eval_transforms)")
    if not found.class_names:
        named = "ImageNet's ids" if class_names_of(found) == imagenet_ids() else "their numbers"
        said.append(f"the classes have {named} for names")
    told = [override.partition("=")[0] for override in overrides]
    return tuple(text for text in said if not _is_told(text, told))


def _words(step: Mapping[str, Any]) -> str:
    return " ".join([str(step["type"]), *(f"{key}={value}" for key, value in step.items() if key != "type")])


def _is_told(sentence: str, keys: Sequence[str]) -> bool:
    """Whether any of the dotted keys is one of the settings that a sentence names, or lies below or above it."""
    named = re.findall(r"(?:model|data)\.[\w.]*\w", sentence)
    return any(f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.") for a in keys for b in named)


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
