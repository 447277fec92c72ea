"""timm's names: resnet18 ... resnet152, resnext, wide resnets and the "d" variants.

They are torchvision's, and detres gives the deep stem and the averaging shortcuts of the "d" variants the names that
timm has, so that only the prefix of the backbone is added.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from detres.weights.formats.interface import Implied
from detres.weights.formats.shapes import describe_model
from detres.weights.report import WeightsError, shorten
from detres.weights.torchvision_names import classifier_from_torchvision, classifier_to_torchvision

NAME = "timm"
BACKGROUND = "last"
IGNORABLE: tuple[str, ...] = ()

_PARTS = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.", "fc.")
_OTHER_BLOCKS = (".se.", ".conv2_bn", ".bn2.act", ".aa.", "conv_atten")  # attention and its like


def recognises(keys: Collection[str]) -> bool:
    """Whether these are keys that only timm's ResNets have: a "d" variant's (the others have torchvision's)."""
    return "conv1.6.weight" in keys and "layer1.0.conv1.weight" in keys


def to_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under detres's names; WeightsError lists the keys of networks that detres does not build."""
    foreign = [key for key in state if not key.startswith(_PARTS) or any(part in key for part in _OTHER_BLOCKS)]
    if foreign:
        raise WeightsError(
            f"timm: {len(foreign)} of {len(state)} tensors have no place in a ResNet of detres: {shorten(foreign, 100)}"
        )
    return classifier_from_torchvision(state)


def from_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under timm's names; ValueError for anything but a classifier or a backbone."""
    return classifier_to_torchvision(state)


def implied(state: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Implied:
    """The network; timm keeps the pixel values that it was trained with apart from the weights."""
    text = "ImageNet's mean and deviation, as most of timm's weights (its pretrained_cfg tells; model.pixels.mean, std)"
    return Implied(describe_model(to_detres(state)), assumed=(text,))


def instructions(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """The timm model that takes the file, and the pixels that it wants."""
    backbone, pixels = model["backbone"], model["pixels"]
    groups, width = backbone.get("groups", 1), backbone.get("width_per_group", 64)
    family = "wide_resnet" if width == 128 else "resnet" if groups == 1 else "resnext"
    suffix = "_2" if width == 128 else ""
    suffix += ("d" if backbone.get("avg_pool_shortcut") else "c") if backbone.get("deep_stem") else ""
    suffix += f"_{groups}x{width}d" if groups > 1 else "_gn" if backbone.get("norm") == "group" else ""
    mean, std = ([round(value / 255, 6) for value in pixels[key]] for key in ("mean", "std"))
    lines = [f"timm.create_model('{family}{backbone['depth']}{suffix}', num_classes={len(state.get('fc.weight', ()))})"]
    lines.append(f"normalise with mean={mean}, std={std} in the order {pixels['channel_order'].upper()}")
    wanted = {"shortcut": "B", "stride_in_1x1": False, "norm_eps": 1e-5}
    if backbone.get("avg_pool_shortcut") and not backbone.get("deep_stem"):
        wanted["avg_pool_shortcut"] = False
    if groups == 1:
        wanted["width_per_group"] = 128 if width == 128 else 64
    text = "not the same: model.backbone.{} is {!r} here, {!r} in timm"
    return lines + [
        text.format(key, backbone[key], there) for key, there in wanted.items() if backbone.get(key, there) != there
    ]
