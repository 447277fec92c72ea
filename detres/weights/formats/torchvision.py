"""torchvision's names: its Faster R-CNN detectors, and its ResNet, ResNeXt and wide ResNet classifiers.

detres's own names are torchvision's, so little is renamed: a classifier's backbone gets its prefix, and the names that
torchvision's first published detectors have for the convolutions of FPN and RPN become today's.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from detres.weights.formats.interface import Implied
from detres.weights.formats.shapes import describe_model, merge, num_classes
from detres.weights.torchvision_names import classifier_from_torchvision, classifier_to_torchvision

NAME = "torchvision"
BACKGROUND = "first"
IGNORABLE: tuple[str, ...] = ()

_OLD_NAME = re.compile(r"((?:^|\.)fpn\.(?:inner|layer)_blocks\.\d+|^rpn\.head\.conv)\.(weight|bias)$")
_DETECTOR = ("backbone.", "rpn.", "roi_heads.")
_BETA = 1.0 / 9  # of its smooth L1 losses
_PIXELS = "RGB pixels with ImageNet's mean and deviation (model.pixels)"
_PARTS = "anchors, RoIAlign, counts and thresholds of its own detectors (model.anchors, model.rpn, model.roi_heads)"
# What its own networks and detectors have.
_BACKBONE: dict[str, Any] = {
    "backbone.type": "resnet",
    "backbone.shortcut": "B",
    "backbone.stride_in_1x1": False,
    "backbone.deep_stem": False,
    "backbone.avg_pool_shortcut": False,
}
_DETECTOR_PARTS: dict[str, Any] = {
    "anchors.rounded": True,
    "anchors.stride": "from_shape",
    "anchors.order": "ratio_major",
    "neck.top": "maxpool",
    "roi_heads.pool.type": "roi_align",
    "roi_heads.pool.aligned": False,
    "roi_heads.nms": "hard",
    "roi_heads.class_agnostic": False,
    "roi_heads.symmetric_clamp": False,
    "roi_heads.min_size": 0.01,
    "rpn.symmetric_clamp": False,
    "rpn.min_size": 0.001,
    "pixels.size_divisibility": 32,
}
_CONVENTIONS: dict[str, Any] = {
    "backbone": {"stride_in_1x1": False},
    "anchors": {"rounded": True, "stride": "from_shape", "order": "ratio_major"},
    "rpn": {
        "box_loss": "smooth_l1",
        "smooth_l1_beta": _BETA,
        "normalize_by": "sampled",
        "post_nms_top_n_train": 2000,
        "min_size": 0.001,
    },
    "roi_heads": {
        "pool": {"sampling_ratio": 2, "aligned": False},
        "box_loss": "smooth_l1",
        "smooth_l1_beta": _BETA,
        "min_size": 0.01,
    },
}


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of one of torchvision's detectors or classifiers."""
    return _is_detector(keys) or {"conv1.weight", "layer1.0.conv1.weight", "fc.weight"} <= set(keys)


def to_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under detres's names."""
    renamed = {todays_name(key): tensor for key, tensor in state.items()}
    return renamed if _is_detector(renamed) else classifier_from_torchvision(renamed)


def from_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under torchvision's names; a detector's background must stand first (conventions)."""
    return dict(state) if _is_detector(state) else classifier_to_torchvision(state)


def implied(state: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Implied:
    """torchvision's conventions, as `fasterrcnn_resnet50_fpn` and `_v2` have them."""
    ours = to_detres(state)
    model = describe_model(ours)
    if model["type"] == "classifier":
        return Implied(merge(model, {"backbone": _CONVENTIONS["backbone"]}), assumed=(_PIXELS,))
    names = coco_91() if num_classes(ours) == len(coco_91()) else ()
    if model["backbone"]["norm"] != "frozen_batch":
        return Implied(merge(model, _CONVENTIONS), names, (_PIXELS, _PARTS))
    eps = 0.0 if names else 1e-5  # torchvision sets it to 0 for the weights that it publishes
    reason = "sets it for its COCO_V1 weights" if names else "makes them"
    assumed = f"frozen norms with eps {eps:g}, as torchvision {reason} (model.backbone.norm_eps)"
    conventions = merge(_CONVENTIONS, {"backbone": {"norm_eps": eps}})
    return Implied(merge(model, conventions), names, (_PIXELS, _PARTS, assumed))


def instructions(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """What torchvision's constructors must be given for the same outputs."""
    pixels = model["pixels"]
    lines = []
    if pixels.get("per_pixel_mean") is not None:
        lines.append("not the same: a mean image is subtracted here (model.pixels.per_pixel_mean), a mean colour there")
    mean, std = ([round(value / 255, 6) for value in pixels[key]] for key in ("mean", "std"))
    if pixels["channel_order"] == "bgr":
        mean, std = mean[::-1], std[::-1]
        lines.append("the first convolution's input channels were turned from BGR to RGB")
    differences = [f"not the same: {text}" for text in _differences(model)]
    if model["type"] == "classifier":
        return [*differences, *lines, f"normalise with mean={mean}, std={std}"]
    lines.append(f"FasterRCNN(..., num_classes={num_classes(state) + 1}, image_mean={mean}, image_std={std},")
    lines += [f"    {argument}," for argument in _arguments(model)] + [")"]
    if model["backbone"].get("norm_eps", 1e-5) != 1e-5:
        lines.append(f"set the eps of its norms to {model['backbone']['norm_eps']:g}")
    if differences:
        lines.append("detres.integrations.torchvision.to_torchvision builds a model that is the same, where it can")
    return differences + lines


def _arguments(model: Mapping[str, Any]) -> list[str]:
    """What else torchvision's FasterRCNN must be given, as its constructor names it."""
    anchors, rpn, heads, pool = model["anchors"], model["rpn"], model["roi_heads"], model["roi_heads"]["pool"]
    sizes = tuple(tuple(level) for level in anchors["sizes"])
    ratios = tuple(anchors["aspect_ratios"])
    return [
        f"rpn_anchor_generator=AnchorGenerator({sizes}, ({ratios},) * {len(sizes)})",
        f"rpn_pre_nms_top_n_train={rpn['pre_nms_top_n_train']}, rpn_pre_nms_top_n_test={rpn['pre_nms_top_n_test']}",
        f"rpn_post_nms_top_n_train={rpn['post_nms_top_n_train']}, rpn_post_nms_top_n_test={rpn['post_nms_top_n_test']}",
        f"rpn_nms_thresh={rpn['nms_iou']}, rpn_score_thresh={rpn['score_threshold']}",
        f"box_roi_pool=MultiScaleRoIAlign([...], {pool['output_size']}, {pool['sampling_ratio'] or -1}, "
        f"canonical_scale={pool['canonical_size']:g}, canonical_level={pool['canonical_level']})",
        f"box_score_thresh={heads['score_threshold']}, box_nms_thresh={heads['nms_iou']}",
        f"box_detections_per_img={heads['detections_per_image']}, bbox_reg_weights={tuple(heads['box_coder_weights'])}",
    ]


def _differences(model: Mapping[str, Any]) -> list[str]:
    """Settings whose value torchvision's own parts cannot have."""
    text = "model.{} is {!r} here, {!r} in torchvision"
    wanted = _BACKBONE if model["type"] == "classifier" else {**_BACKBONE, **_DETECTOR_PARTS}
    found = {key: _at(model, key, there) for key, there in wanted.items()}
    return [text.format(key, found[key], there) for key, there in wanted.items() if found[key] != there]


def _at(model: Mapping[str, Any], path: str, default: Any) -> Any:
    for key in path.split("."):
        model = model.get(key, default) if isinstance(model, Mapping) else default
    return model


def coco_91() -> tuple[str, ...]:
    """The classes of torchvision's COCO detectors by label, after the background: unused ids are called N/A."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    return tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])


def todays_name(key: str) -> str:
    """The name that torchvision gives today to a tensor of one of its first published detectors."""
    old = _OLD_NAME.search(key)
    return key if old is None else f"{key[: old.end(1)]}{'.0.0' if 'rpn' in old[1] else '.0'}.{old[2]}"


def _is_detector(keys: Collection[str]) -> bool:
    return "roi_heads.box_predictor.cls_score.weight" in keys and all(key.startswith(_DETECTOR) for key in keys)
