"""What the keys and shapes of a state dict in detres's names tell about the model: the settings that build it.

Conventions that leave no trace in a tensor (pixel values, rounding, the stride's place in a bottleneck) are the
formats' business.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from detres.weights.head import describe_head
from detres.weights.report import WeightsError, shorten

Shapes = Mapping[str, Tensor]

# (whether the blocks are bottlenecks, how many conv2_x, conv3_x and conv4_x have) -> depth
_DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2)): 18,
    (False, (3, 4, 6)): 34,
    (True, (3, 4, 6)): 50,
    (True, (3, 4, 23)): 101,
    (True, (3, 8, 36)): 152,
}
_RPN, _BOX, _CONV5 = "rpn.head.", "roi_heads.box_head.", "roi_heads.box_head.layer4."
_NEEDED = (
    *(f"{_RPN}{layer}.weight" for layer in ("conv.0.0", "cls_logits", "bbox_pred")),
    *(f"roi_heads.box_predictor.{layer}.weight" for layer in ("cls_score", "bbox_pred")),
)
_ASPECT_RATIOS = 3  # of the anchors of all toolkits' models
_SINGLE_LEVEL_SIZES = [32.0, 64.0, 128.0, 256.0, 512.0]  # C4 and DC5


def describe_model(state: Shapes) -> dict[str, Any]:
    """The settings of `model` that a state dict's keys and shapes imply, nested.

    A state dict with a detection head gives type faster_rcnn, any other one type classifier (a bare backbone as well).
    Raises WeightsError when the backbone is no ResNet that detres builds.
    """
    if not is_detector(state):
        return {"type": "classifier", "backbone": describe_backbone(state)}
    if missing := [key for key in _NEEDED if key not in state]:
        raise WeightsError(f"a detector without {', '.join(missing)}; expected the tensors of a whole one")
    backbone, neck = describe_backbone(state), _describe_neck(state)
    if neck is not None:
        levels = len(_numbers(state, "backbone.fpn.inner_blocks."))
        coarsest = max(_numbers(state, "backbone.body.layer"), default=4) + 1
        first = coarsest + 1 - levels
        backbone["out_features"] = [f"c{level}" for level in range(first, coarsest + 1)]
        channels, num_levels = neck["channels"], levels + (2 if neck["top"] == "conv" else 1)
        sizes = [[8.0 * 2**level] for level in range(first, first + num_levels)]
    else:
        is_c4 = any(key.startswith(_CONV5) for key in state)
        backbone |= {"out_features": ["c4"]} if is_c4 else {"out_features": ["c5"], "dilated_c5": True}
        channels, sizes = _last_channels(state, "backbone.", 3 if is_c4 else 4), [_SINGLE_LEVEL_SIZES]
    return {
        "type": "faster_rcnn",
        "backbone": backbone,
        "neck": neck,
        "anchors": _describe_anchors(state, sizes),
        "rpn": _describe_rpn(state, channels),
        "roi_heads": _describe_roi_heads(state, channels),
    }


def is_detector(keys: Collection[str]) -> bool:
    """Whether keys (detres's names) are those of a detector, whole or not, and not of a backbone or a classifier."""
    return any(key.startswith(("rpn.", "roi_heads.")) for key in keys)


def describe_backbone(state: Shapes) -> dict[str, Any]:
    """The settings of `model.backbone` for a ResNet under `backbone.` or `backbone.body.`."""
    prefix = "backbone.body." if any(key.startswith("backbone.body.") for key in state) else "backbone."
    body = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    bottleneck = "layer1.0.conv3.weight" in body
    settings: dict[str, Any] = {
        "type": "resnet",
        "depth": _depth(body, bottleneck),
        "deep_stem": "conv1.0.weight" in body,
        "avg_pool_shortcut": body.get("layer2.0.downsample.1.weight", _NOTHING).dim() == 4,
        "shortcut": _describe_shortcut(body),
        "norm": describe_norm(body, "bn1."),
    }
    if bottleneck:
        inner, per_group = body["layer1.0.conv2.weight"].shape[:2]
        settings |= {"groups": inner // per_group, "width_per_group": per_group}
    return settings


def _depth(body: Shapes, bottleneck: bool) -> int:
    """By the numbers of blocks; where later stages were left out, the shallowest network that begins so."""
    counts = tuple(count for i in (1, 2, 3) if (count := len(_numbers(body, f"layer{i}."))))
    if not counts:
        shown = shorten(list(body), 3)
        raise WeightsError(f"no ResNet: it has no blocks layer1.0, layer1.1, ...; its backbone's tensors are {shown}")
    for (has_bottlenecks, usual), depth in _DEPTHS.items():
        if has_bottlenecks == bottleneck and usual[: len(counts)] == counts:
            return depth
    kind = "bottleneck" if bottleneck else "basic"
    raise WeightsError(
        f"stages of {', '.join(map(str, counts))} {kind} blocks (conv2_x, conv3_x, conv4_x); expected a ResNet of "
        "depth 18, 34, 50, 101 or 152"
    )


def describe_norm(state: Shapes, layer: str) -> str:
    """The name of the norm whose tensors begin with `layer`; without step counters it is a frozen one."""
    if f"{layer}running_mean" in state:
        return "batch" if f"{layer}num_batches_tracked" in state else "frozen_batch"
    return "group" if f"{layer}weight" in state else "none"


def num_classes(state: Shapes) -> int:
    """How many classes the head of a detector or a classifier has, without the background; 0 for a bare backbone."""
    head = describe_head(state)
    return 0 if head is None else head.num_classes


def merge(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with those of `more` on top."""
    merged = dict(settings)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _describe_shortcut(body: Shapes) -> str:
    if any(".gate." in key for key in body):
        return "highway"
    if not any(key.startswith("layer2.0.downsample.") for key in body):
        return "A"  # or none at all, which looks the same
    return "C" if any(key.startswith("layer1.1.downsample.") for key in body) else "B"


def _describe_neck(state: Shapes) -> dict[str, Any] | None:
    if not any(key.startswith("backbone.fpn.") for key in state):
        return None
    if (first := "backbone.fpn.layer_blocks.0.0.weight") not in state:
        raise WeightsError(f"a pyramid without {first}; expected the tensors of a whole one")
    return {
        "channels": len(state["backbone.fpn.layer_blocks.0.0.weight"]),
        "norm": describe_norm(state, "backbone.fpn.layer_blocks.0.1."),
        "top": "conv" if any(key.startswith("backbone.fpn.extra_blocks.") for key in state) else "maxpool",
    }


def _describe_anchors(state: Shapes, sizes: list[list[float]]) -> dict[str, Any]:
    """The usual sizes; where the head has another number of anchors per cell, as many, an octave divided among them."""
    anchors = len(state[f"{_RPN}cls_logits.weight"])
    ratios, per_cell = {}, anchors // _ASPECT_RATIOS
    if anchors % _ASPECT_RATIOS:
        ratios, per_cell = {"aspect_ratios": [1.0]}, anchors
    if per_cell != len(sizes[0]) and len(sizes) > 1:
        sizes = [[level[0] * 2 ** (i / per_cell) for i in range(per_cell)] for level in sizes]
    elif per_cell != len(sizes[0]):
        sizes = [[32.0 * 2**i for i in range(per_cell)]]
    return {"sizes": sizes, **ratios}


def _describe_rpn(state: Shapes, in_channels: int) -> dict[str, Any]:
    channels = len(state[f"{_RPN}conv.0.0.weight"])
    return {
        "convs": len(_numbers(state, f"{_RPN}conv.")),
        "channels": None if channels == in_channels else channels,
    }


def _describe_roi_heads(state: Shapes, in_channels: int) -> dict[str, Any]:
    head = describe_head(state)
    assert head is not None, "describe_model has seen the head"
    box_head, size = _describe_box_head(state, in_channels)
    return {
        "box_head": box_head,
        "pool": {"output_size": size},
        "class_agnostic": head.agnostic,
        "background": head.background,
    }


def _describe_box_head(state: Shapes, in_channels: int) -> tuple[dict[str, Any], int]:
    """The head's settings, and the side of the pooled regions that it takes."""
    if any(key.startswith(_CONV5) for key in state):
        return {"type": "conv5"}, 14
    if f"{_BOX}fc6.weight" in state:
        first = state[f"{_BOX}fc6.weight"]
        num_fcs = len(_numbers(state, f"{_BOX}fc"))
        return {"type": "fc", "num_fcs": num_fcs, "channels": len(first)}, math.isqrt(first.shape[1] // in_channels)
    if f"{_BOX}0.0.weight" not in state:
        found = sorted({key.split(".")[2] for key in state if key.startswith(_BOX)})
        raise WeightsError(
            f"a box head of {', '.join(found) or 'nothing'}; expected conv5_x (C4), fully connected layers, or "
            "convolutions and one such layer"
        )
    linear = next(t for key, t in state.items() if re.fullmatch(rf"{re.escape(_BOX)}\d+\.weight", key))
    convs = [key for key in state if re.fullmatch(rf"{re.escape(_BOX)}\d+\.0\.weight", key)]
    conv_channels = len(state[f"{_BOX}0.0.weight"])
    settings = {
        "type": "conv_fc",
        "num_convs": len(convs),
        "conv_channels": conv_channels,
        "channels": len(linear),
        "norm": describe_norm(state, f"{_BOX}0.1."),
    }
    return settings, math.isqrt(linear.shape[1] // conv_channels)


def _last_channels(state: Shapes, prefix: str, stage: int) -> int:
    """The channels that leave layer{stage}."""
    block = f"{prefix}layer{stage}.0."
    last = f"{block}conv3.weight" if f"{block}conv3.weight" in state else f"{block}conv2.weight"
    if last not in state:
        raise WeightsError(f"{last} is missing; expected a detector on conv4_x (C4) or on all stages (DC5, FPN)")
    return len(state[last])


def _numbers(keys: Iterable[str], prefix: str) -> set[int]:
    """The numbers that stand right behind `prefix` in any key."""
    found = (re.match(r"\d+", key.removeprefix(prefix)) for key in keys if key.startswith(prefix))
    return {int(number[0]) for number in found if number}


_NOTHING = Tensor()
