"""From an mmdetection configuration to the settings of `model`, and what holds where there is none.

Conventions and defaults are those of mmdet 3.3.0's configs/_base_/models/faster-rcnn_*.py and of the classes they name.
"""

from collections.abc import Callable, Mapping
from typing import Any

from detres.weights.formats.shapes import merge

Settings = dict[str, Any]

DILATED_BASIC = "only the first convolution of a basic block is dilated (model.backbone.dilated_c5)"

_IMAGENET: Settings = {"channel_order": "rgb", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
_CAFFE: Settings = {"channel_order": "bgr", "mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0]}
_CAFFE2 = {**_CAFFE, "std": [57.375, 57.12, 58.395]}  # ResNeXt-101-32x8d
_LOSSES = {"L1Loss": "l1", "SmoothL1Loss": "smooth_l1", "GIoULoss": "giou", "DIoULoss": "diou", "CIoULoss": "ciou"}
_POOLS = {"RoIAlign": "roi_align", "RoIPool": "roi_pool"}


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


# place in their `model`, place in ours, translation
_TABLE: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("backbone.frozen_stages", "backbone.frozen_stages", lambda last: last + 1),  # theirs -1: none, 0: the stem
    ("backbone.norm_cfg.eps", "backbone.norm_eps", float),
    ("rpn_head.anchor_generator.ratios", "anchors.aspect_ratios", _floats),
    ("rpn_head.anchor_generator.scale_major", "anchors.order", lambda yes: "ratio_major" if yes else "size_major"),
    ("rpn_head.loss_bbox.type", "rpn.box_loss", lambda name: _LOSSES.get(name, "l1")),
    ("rpn_head.loss_bbox.beta", "rpn.smooth_l1_beta", float),
    ("rpn_head.loss_bbox.loss_weight", "rpn.box_loss_weight", float),
    ("train_cfg.rpn.assigner.pos_iou_thr", "rpn.sampling.positive_iou", float),
    ("train_cfg.rpn.assigner.neg_iou_thr", "rpn.sampling.negative_iou", float),
    ("train_cfg.rpn.sampler.num", "rpn.sampling.batch_size", int),
    ("train_cfg.rpn.sampler.pos_fraction", "rpn.sampling.positive_fraction", float),
    ("train_cfg.rpn.allowed_border", "rpn.straddle_threshold", float),
    ("train_cfg.rpn_proposal.nms_pre", "rpn.pre_nms_top_n_train", int),
    ("train_cfg.rpn_proposal.max_num", "rpn.post_nms_top_n_train", int),  # before 2.9
    ("train_cfg.rpn_proposal.max_per_img", "rpn.post_nms_top_n_train", int),
    ("test_cfg.rpn.nms_pre", "rpn.pre_nms_top_n_test", int),
    ("test_cfg.rpn.max_num", "rpn.post_nms_top_n_test", int),
    ("test_cfg.rpn.max_per_img", "rpn.post_nms_top_n_test", int),
    ("test_cfg.rpn.nms_thr", "rpn.nms_iou", float),
    ("test_cfg.rpn.nms.iou_threshold", "rpn.nms_iou", float),
    ("test_cfg.rpn.min_bbox_size", "rpn.min_size", float),
    ("roi_head.bbox_roi_extractor.roi_layer.type", "roi_heads.pool.type", lambda name: _POOLS.get(name, "roi_align")),
    ("roi_head.bbox_roi_extractor.roi_layer.sampling_ratio", "roi_heads.pool.sampling_ratio", int),
    ("roi_head.bbox_roi_extractor.roi_layer.aligned", "roi_heads.pool.aligned", bool),
    ("roi_head.bbox_head.loss_bbox.type", "roi_heads.box_loss", lambda name: _LOSSES.get(name, "l1")),
    ("roi_head.bbox_head.loss_bbox.beta", "roi_heads.smooth_l1_beta", float),
    ("roi_head.bbox_head.loss_bbox.loss_weight", "roi_heads.box_loss_weight", float),
    ("roi_head.bbox_head.bbox_coder.target_stds", "roi_heads.box_coder_weights", lambda s: [1 / float(v) for v in s]),
    ("train_cfg.rcnn.assigner.pos_iou_thr", "roi_heads.sampling.positive_iou", float),
    ("train_cfg.rcnn.assigner.neg_iou_thr", "roi_heads.sampling.negative_iou", float),
    ("train_cfg.rcnn.sampler.num", "roi_heads.sampling.batch_size", int),
    ("train_cfg.rcnn.sampler.pos_fraction", "roi_heads.sampling.positive_fraction", float),
    ("train_cfg.rcnn.sampler.add_gt_as_proposals", "roi_heads.add_ground_truth", bool),
    ("test_cfg.rcnn.score_thr", "roi_heads.score_threshold", float),
    ("test_cfg.rcnn.nms.iou_thr", "roi_heads.nms_iou", float),
    ("test_cfg.rcnn.nms.iou_threshold", "roi_heads.nms_iou", float),
    ("test_cfg.rcnn.nms.sigma", "roi_heads.soft_nms_sigma", float),
    ("test_cfg.rcnn.max_per_img", "roi_heads.detections_per_image", int),
)

# what detres can only do one way: place in their `model`, the value that it must have, what it is about
_FIXED: tuple[tuple[str, Any, str], ...] = (
    ("rpn_head.bbox_coder.type", "DeltaXYWHBBoxCoder", "decoding of proposals"),
    ("rpn_head.bbox_coder.target_stds", [1.0, 1.0, 1.0, 1.0], "decoding of proposals"),
    ("rpn_head.bbox_coder.target_means", [0.0, 0.0, 0.0, 0.0], "decoding of proposals"),
    ("rpn_head.anchor_generator.type", "AnchorGenerator", "anchors"),
    ("rpn_head.anchor_generator.center_offset", 0.0, "anchors"),
    ("rpn_head.loss_cls.use_sigmoid", True, "objectness"),
    ("roi_head.bbox_head.bbox_coder.type", "DeltaXYWHBBoxCoder", "decoding of boxes"),
    ("roi_head.bbox_head.bbox_coder.target_means", [0.0, 0.0, 0.0, 0.0], "decoding of boxes"),
    ("roi_head.bbox_head.loss_cls.use_sigmoid", False, "class scores"),
)


def settings_of(config: Mapping[str, Any], shapes: Settings) -> tuple[Settings, list[str]]:
    """The settings of `model`: `shapes` (shapes.describe_model), mmdetection's conventions, and what `config` says.

    Also sentences on what had to be taken for granted and on what detres computes otherwise.
    """
    theirs = _their_model(config)
    settings, sentences = merge(shapes, _conventions(shapes)), []
    if isinstance(theirs.get("backbone"), dict) and (pixels := _pixels(config, theirs)):
        settings = merge(settings, _style(shapes, theirs["backbone"].get("style") == "caffe", pixels))
    else:
        assumed, sentence = _assumed(shapes)
        settings, sentences = merge(settings, assumed), [sentence]
    if get(theirs, "backbone.norm_cfg.requires_grad") is False:
        settings["backbone"]["norm"] = "frozen_batch"
    if shapes["type"] == "faster_rcnn" and theirs:
        settings = merge(merge(settings, _by_table(theirs)), _not_by_table(theirs, settings))
        sentences += [f"not the same: {text}" for text in _differences(theirs)]
    if shapes["backbone"].get("dilated_c5") and "groups" not in shapes["backbone"]:
        sentences.append(f"not the same: in mmdetection {DILATED_BASIC}")
    return settings, sentences


def get(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of nested mappings, None where there is none."""
    value: Any = tree
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _their_model(config: Mapping[str, Any]) -> Settings:
    """Their `model`, with the two parts that stood beside it before 2.9; empty without one."""
    model = config.get("model")
    if not isinstance(model, dict):
        return {}
    return {key: config[key] for key in ("train_cfg", "test_cfg") if isinstance(config.get(key), dict)} | model


def _pixels(config: Mapping[str, Any], theirs: Mapping[str, Any]) -> Settings:
    """Normalisation: 3.x in the model, mmpretrain beside it, 2.x beside it under another name."""
    for found in (theirs.get("data_preprocessor"), config.get("data_preprocessor"), config.get("img_norm_cfg")):
        if isinstance(found, dict) and "mean" in found and "std" in found:
            rgb = found.get("bgr_to_rgb", found.get("to_rgb", False))
            pixels = {"mean": _floats(found["mean"]), "std": _floats(found["std"])}
            divisor = found.get("pad_size_divisor")
            return {**pixels, "channel_order": "rgb" if rgb else "bgr"} | (
                {} if divisor is None else {"size_divisibility": divisor}
            )
    return {}


def _style(shapes: Settings, caffe: bool, pixels: Settings) -> Settings:
    has_style = "groups" in shapes["backbone"]  # bottlenecks: only they have a 1x1 convolution that could stride
    return {"backbone": {"stride_in_1x1": caffe} if has_style else {}, "pixels": pixels}


def _assumed(shapes: Settings) -> tuple[Settings, str]:
    """Pixels and style for a file without a configuration, and the sentence that says so."""
    backbone = shapes["backbone"]
    caffe, pixels, other = False, _IMAGENET, _CAFFE
    reason = "as most of mmdetection's configurations have them"
    if shapes["type"] == "faster_rcnn" and shapes["neck"] is None:
        caffe, pixels, other = True, _CAFFE, _IMAGENET
        reason = "as all of mmdetection's configurations for C4 and DC5 have them"
    elif (backbone.get("groups"), backbone.get("width_per_group")) == (32, 8):
        pixels, other, reason = _CAFFE2, _IMAGENET, "as mmdetection's ResNeXt-101-32x8d has them"
    settings = _style(shapes, caffe, pixels)
    stride = [] if pixels is _CAFFE2 else [f"model.backbone.stride_in_1x1={str(not caffe).lower()}"]
    keys = stride + [f"model.pixels.{key}={str(value).replace(' ', '')}" for key, value in other.items()]
    text = f"{'caffe' if caffe else 'pytorch'} style, {pixels['channel_order'].upper()} pixels over {pixels['std']}"
    return settings, f"{text}, {reason}; the other kind: {' '.join(keys)}"


def _conventions(shapes: Settings) -> Settings:
    """What all of mmdetection's Faster R-CNNs have in common."""
    if shapes["type"] != "faster_rcnn":
        return {}
    rpn: Settings = {"symmetric_clamp": True, "normalize_by": "sampled"}
    if shapes["neck"] is None:
        rpn |= {"pre_nms_top_n_train": 12000, "pre_nms_top_n_test": 6000, "post_nms_top_n_train": 2000}
        rpn |= {"straddle_threshold": 0.0} if shapes["backbone"].get("dilated_c5") else {}
    return {
        "anchors": {"order": "ratio_major", "rounded": False, "stride": "nominal"},
        "rpn": rpn,
        "roi_heads": {
            "background": "last",
            "pool": {"type": "roi_align", "sampling_ratio": 0, "aligned": True},
            "box_coder_weights": [10.0, 10.0, 5.0, 5.0],
            "symmetric_clamp": True,
        },
    }


def _by_table(theirs: Settings) -> Settings:
    settings: Settings = {}
    for there, here, translate in _TABLE:
        value = _translated(translate, get(theirs, there))
        for key in reversed(here.split(".")):
            value = {key: value}
        if get(value, here) is not None:
            settings = merge(settings, value)
    return settings


def _translated(translate: Callable[[Any], Any], value: Any) -> Any:
    """None for what is not there, or is no value that detres knows."""
    try:
        return None if value is None else translate(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _not_by_table(theirs: Settings, settings: Settings) -> Settings:
    """What comes from several values: anchor sizes, pyramid levels, the kind of NMS, beta."""
    found: Settings = {"anchors": {}, "roi_heads": {}}
    generator = get(theirs, "rpn_head.anchor_generator") or {}
    bases, scales = generator.get("base_sizes") or generator.get("strides"), generator.get("scales")
    if bases and scales and len(bases) == len(settings["anchors"]["sizes"]):
        found["anchors"]["sizes"] = [[float(base * scale) for scale in scales] for base in bases]
    extractor = get(theirs, "roi_head.bbox_roi_extractor") or {}
    if (finest := extractor.get("finest_scale")) and (strides := extractor.get("featmap_strides")):
        found["roi_heads"]["pool"] = {"canonical_size": finest * 16.0 / strides[0]}  # of canonical_level 4
    nms = get(theirs, "test_cfg.rcnn.nms") or {}
    if nms.get("type") == "soft_nms":
        found["roi_heads"]["nms"] = f"soft_{nms.get('method', 'linear')}"
        found["roi_heads"].update({} if "iou_threshold" in nms else {"nms_iou": 0.3})
    for stage, place in (("rpn", "rpn_head.loss_bbox"), ("roi_heads", "roi_head.bbox_head.loss_bbox")):
        loss = get(theirs, place) or {}
        if loss.get("type") == "SmoothL1Loss" and "beta" not in loss:
            found.setdefault(stage, {})["smooth_l1_beta"] = 1.0  # its default
    return found


def _differences(theirs: Settings) -> list[str]:
    """What the configuration asks for and detres computes in another way."""
    found = [
        f"{here}: {there} is {value!r}, which has no counterpart"
        for there, here, translate in _TABLE
        if (value := get(theirs, there)) is not None and _translated(translate, value) is None
    ]
    for place, expected, what in _FIXED:
        if (value := get(theirs, place)) is not None and value != expected:
            found.append(f"{what}: {place} is {value!r}, detres computes as with {expected!r}")
    for place in ("rpn_head.loss_bbox.type", "roi_head.bbox_head.loss_bbox.type"):
        if (value := get(theirs, place)) is not None and value not in _LOSSES:
            found.append(f"training: {place} is {value}, detres takes L1")
    if (kind := get(theirs, "roi_head.bbox_roi_extractor.roi_layer.type")) is not None and kind not in _POOLS:
        found.append(f"pooling: roi_layer is {kind}, detres takes RoIAlign")
    least = (get(theirs, "test_cfg.rcnn.nms") or {}).get("min_score", 1e-3)
    if get(theirs, "test_cfg.rcnn.nms.type") == "soft_nms" and least != get(theirs, "test_cfg.rcnn.score_thr"):
        found.append(f"soft NMS keeps scores above {least} there, above model.roi_heads.score_threshold here")
    return found
