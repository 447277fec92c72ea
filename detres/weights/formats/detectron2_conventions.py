"""What a detectron2 file implies beyond its shapes: the conventions of its Base-RCNN-{C4,DilatedC5,FPN} settings.

A training checkpoint also holds pixel_mean, pixel_std and, in older ones, the anchors of a cell: these are read.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from detres.weights.formats.shapes import merge

Settings = dict[str, Any]

MEAN_BGR, STD_BGR = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
_NO_STD = [1.0, 1.0, 1.0]  # MSRA's weights have it in their first convolution
_TORCHVISION: Settings = {"mean": MEAN_BGR[::-1], "std": STD_BGR[::-1], "channel_order": "rgb"}
_CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
_DETECTOR: Settings = {
    "anchors": {"rounded": False, "stride": "nominal", "order": "size_major"},
    "roi_heads": {"background": "last", "pool": {"type": "roi_align", "sampling_ratio": 0, "aligned": True}},
}
_PYRAMID: Settings = {
    "pixels": {"size_divisibility": 32},
    "rpn": {
        "pre_nms_top_n_train": 2000,
        "pre_nms_top_n_test": 1000,
        "post_nms_top_n_train": 1000,
        "post_nms_top_n_test": 1000,
    },
}
_ONE_MAP: Settings = {
    "pixels": {"size_divisibility": 0},
    "rpn": {
        "pre_nms_top_n_train": 12000,
        "pre_nms_top_n_test": 6000,
        "post_nms_top_n_train": 2000,
        "post_nms_top_n_test": 1000,
    },
}


def conventions(
    model: Mapping[str, Any], state: Mapping[str, Tensor], *, from_torchvision: bool
) -> tuple[Settings, list[str]]:
    """Settings of `model` to put on those that the shapes gave (`model`), and what was taken for granted.

    state             the file's tensors, in its names
    from_torchvision  it is a ResNet of torchvision's in detectron2's names
    """
    backbone = model["backbone"]
    pixels, text = _pixels(backbone, state, from_torchvision)
    more: Settings = {"pixels": pixels}
    assumed = [f"{text} (model.pixels)"]
    if backbone["depth"] > 34:
        plain = pixels["std"] == _NO_STD and backbone["norm"] != "group"
        more["backbone"] = {"stride_in_1x1": plain}
        place = "first 1x1 convolution, as MSRA's" if plain else "3x3 convolution, as torchvision's and FAIR's ResNeXts"
        assumed.append(f"bottlenecks stride in their {place} (model.backbone.stride_in_1x1)")
    if model["type"] != "faster_rcnn":
        return more, assumed
    if backbone["norm"] == "frozen_batch":
        more = merge(more, {"backbone": {"frozen_stages": 2}})
    dilated = bool(backbone.get("dilated_c5")) and backbone["depth"] > 34  # it refuses to dilate basic blocks
    if backbone.get("dilated_c5"):
        more = merge(more, {"backbone": {"dilated_c5": dilated}})
    if dilated:
        assumed.append("conv5_x is dilated, as in Base-RCNN-DilatedC5.yaml (model.backbone.dilated_c5)")
    base = "FPN" if model["neck"] else "C4" if backbone["out_features"] == ["c4"] else "DilatedC5"
    assumed.append(f"counts and thresholds of Base-RCNN-{base}.yaml (model.rpn, model.roi_heads)")
    anchors, text = _anchors(model, state)
    assumed += [text] if text else []
    for layer in (_DETECTOR, _PYRAMID if model["neck"] else _ONE_MAP, {"anchors": anchors}):
        more = merge(layer, more)
    return more, assumed


def _pixels(backbone: Mapping[str, Any], state: Mapping[str, Tensor], from_torchvision: bool) -> tuple[Settings, str]:
    """Settings of `model.pixels`, and what was taken for granted."""
    if "pixel_mean" in state and "pixel_std" in state:
        mean, std = ([round(float(v), 4) for v in state[f"pixel_{name}"].flatten()] for name in ("mean", "std"))
        order = "rgb" if mean[0] > mean[-1] else "bgr"  # ImageNet's red is the brightest
        text = f"pixels in the order {order.upper()}, as the order of the file's pixel_mean suggests"
        return {"mean": mean, "std": std, "channel_order": order}, text
    if from_torchvision:
        return _TORCHVISION, "torchvision's pixel values in the order RGB, as detectron2's converter advises"
    std = STD_BGR if backbone.get("groups", 1) > 1 else _NO_STD
    text = f"pixels in the order BGR, minus {MEAN_BGR}, divided by {std}"
    return {"mean": MEAN_BGR, "std": std, "channel_order": "bgr"}, text


def _anchors(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[Settings, str]:
    """The sizes and ratios of the anchors in the file; where it holds none, that the usual ones are taken."""
    cells = sorted((int(key.removeprefix(_CELL_ANCHORS)), key) for key in state if key.startswith(_CELL_ANCHORS))
    found = [level for _, key in cells if (level := _sizes_and_ratios(state[key]))]
    usual = model["anchors"]["sizes"]
    if len(found) == len(usual) and all(ratios == found[0][1] for _, ratios in found):
        return {"sizes": [sizes for sizes, _ in found], "aspect_ratios": found[0][1]}, ""
    why = ", because those in the file are no product of sizes and ratios" if cells else ""
    text = ", ".join(str([round(size, 2) for size in level]) for level in usual)
    return {}, f"anchors of the sizes {text} in the ratios 0.5, 1, 2{why} (model.anchors.sizes, aspect_ratios)"


def _sizes_and_ratios(cell: Tensor) -> tuple[list[float], list[float]] | None:
    """The sizes and the ratios (height / width) whose product the anchors (A, 4) of a cell are, sizes outermost."""
    width, height = (cell[:, 2] - cell[:, 0]).double(), (cell[:, 3] - cell[:, 1]).double()
    both = torch.stack([(width * height).sqrt(), height / width], dim=1).tolist()
    pairs = [(round(size, 3), round(ratio, 3)) for size, ratio in both]
    sizes, ratios = list(dict.fromkeys(s for s, _ in pairs)), list(dict.fromkeys(r for _, r in pairs))
    return (sizes, ratios) if list(product(sizes, ratios)) == pairs else None
