"""mmdetection's names (2.x and 3.x): Faster R-CNN on ResNet, ResNeXt and ResNetV1d, with FPN, on C4, on a dilated C5.

Facts from mmdet 3.3.0: models/backbones/resnet.py, necks/fpn.py, dense_heads/rpn_head.py,
roi_heads/bbox_heads/convfc_bbox_head.py, roi_heads/shared_heads/res_layer.py, configs/_base_/models/faster-rcnn_*.py.
A classifier or a bare backbone is written as `init_cfg=dict(type='Pretrained', ...)` reads it: in torchvision's names,
a deep stem apart. mmpretrain's classifiers (backbone.*, head.fc.*) are read too.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from detres.weights.formats.interface import Implied
from detres.weights.formats.mmdetection_config import class_names_in, config_in
from detres.weights.formats.mmdetection_settings import DILATED_BASIC, settings_of
from detres.weights.formats.mmdetection_snippet import snippet
from detres.weights.formats.renaming import Renaming
from detres.weights.formats.shapes import describe_model, num_classes

NAME = "mmdetection"
BACKGROUND = "last"
IGNORABLE = (r"data_preprocessor\.", r"ema_")  # buffers: pixel statistics, and what its EMA hook of 2.x added

Pairs = list[tuple[str, str]]

_OWN_NAMES = ("rpn_head.", "roi_head.", "neck.lateral_convs.", "head.fc.", "backbone.stem.", "stem.")
_STEM = ((0, "conv1.0"), (1, "conv1.1"), (3, "conv1.3"), (4, "conv1.4"), (6, "conv1.6"), (7, "bn1"))
_MOST_FCS = 10
_CLAMP = "dw and dh are clamped at both ends"
_FPN, _BOX = "backbone.fpn.", "roi_heads.box_head."


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of a detector of mmdetection, of a ResNetV1d, or of a classifier of mmpretrain."""
    return any(key.startswith(_OWN_NAMES) for key in keys) and any("layer1.0.conv1." in key for key in keys)


def to_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under detres's names; WeightsError lists the keys that have none.

    A file without any `backbone.` is a backbone's own, as `init_cfg=dict(type='Pretrained', ...)` reads it.
    """
    kept = {key: tensor for key, tensor in state.items() if not any(re.match(p, key) for p in IGNORABLE)}
    if not any(key.startswith("backbone.") for key in kept):
        kept = {f"head.{key}" if key.startswith("fc.") else f"backbone.{key}": t for key, t in kept.items()}
    pairs = _backbone_pairs("backbone.body." if any(key.startswith("neck.") for key in kept) else "backbone.")
    pairs += _neck_pairs(_count(kept, r"neck\.lateral_convs\.(\d+)\."))
    pairs += _rpn_pairs(_count(kept, r"rpn_head\.rpn_conv\.(\d+)\.conv\."))
    pairs += _box_pairs(_count(kept, r"roi_head\.bbox_head\.shared_convs\.(\d+)\."))
    return Renaming(pairs).to_ours(kept, NAME)


def from_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under mmdetection's names; WeightsError lists the keys that have none.

    A detector's background must stand last (head_rows).
    """
    body = "backbone.body." if any(key.startswith(_FPN) for key in state) else "backbone."
    pairs = _backbone_pairs(body, _norm(state, f"{body}layer1.0.bn1."), f"{body}conv1.0.weight" in state)
    levels = _count(state, r"backbone\.fpn\.inner_blocks\.(\d+)\.")
    pairs += _neck_pairs(levels, _norm(state, f"{_FPN}layer_blocks.0.1."))
    convs = _count(state, r"rpn\.head\.conv\.(\d+)\.")
    pairs += _rpn_pairs(convs if convs > 1 else 0)
    pairs += _box_pairs(_count(state, r"roi_heads\.box_head\.(\d+)\.0\."), _norm(state, f"{_BOX}0.1."))
    renamed = Renaming(pairs).to_theirs(state, NAME)
    if any(key.startswith(("rpn_head.", "roi_head.", "neck.")) for key in renamed):
        return renamed
    return {key.removeprefix("backbone.").removeprefix("head."): tensor for key, tensor in renamed.items()}


def implied(state: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Implied:
    """The network by its keys and shapes, the rest by the configuration in the file or else by mmdetection's own."""
    ours = to_detres(state)
    names = class_names_in(extra)
    settings, sentences = settings_of(config_in(extra), describe_model(ours))
    return Implied(settings, names if len(names) == num_classes(ours) else (), tuple(sentences))


def instructions(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """The parts of an mmdetection configuration that make it compute the same, for the exported file (FILE)."""
    lines = snippet(model, num_classes(state)) if model["backbone"]["type"] == "resnet" else []
    return lines + [f"not the same: {text}" for text in _differences(model)]


def _backbone_pairs(body: str, norm: str = "bn", deep_stem: bool = True) -> Pairs:
    """ResNet, and conv5_x in the second stage of a C4 detector. `body`: what the backbone's names begin with here."""
    stem = [(f"backbone.stem.{i}.{{leaf}}", f"{body}{name}.{{leaf}}") for i, name in _STEM]
    plain = [("backbone.conv1.weight", f"{body}conv1.weight"), *_norm_pairs("backbone.", body, norm, "1")]
    pairs = stem + plain if deep_stem else plain
    for theirs, ours in (("backbone.", body), ("roi_head.shared_head.", _BOX)):
        block = "layer{stage}.{block}."
        pairs.append((f"{theirs}{block}conv{{i}}.weight", f"{ours}{block}conv{{i}}.weight"))
        pairs += _norm_pairs(theirs + block, ours + block, norm, "{i}")
        pairs.append((f"{theirs}{block}downsample.{{i}}.{{leaf}}", f"{ours}{block}downsample.{{i}}.{{leaf}}"))
    return pairs


def _neck_pairs(levels: int, norm: str = "bn") -> Pairs:
    pairs: Pairs = []
    for theirs, ours in (("lateral_convs", "inner_blocks"), ("fpn_convs", "layer_blocks")):
        for i in range(levels):
            pairs += _conv_pairs(f"neck.{theirs}.{i}.", f"{_FPN}{ours}.{i}.", norm)
    for i in (0, 1):  # levels beyond the backbone's by convolutions
        pairs.append((f"neck.fpn_convs.{levels + i}.conv.{{affine}}", f"{_FPN}extra_blocks.p{6 + i}.{{affine}}"))
    return pairs


def _rpn_pairs(convs: int) -> Pairs:
    """`convs`: how many there are, 0 for one that stands alone."""
    theirs = "rpn_head.rpn_conv.{i}.conv." if convs else "rpn_head.rpn_conv."
    return [
        (f"{theirs}{{affine}}", f"rpn.head.conv.{'{i}' if convs else '0'}.0.{{affine}}"),
        ("rpn_head.rpn_cls.{affine}", "rpn.head.cls_logits.{affine}"),
        ("rpn_head.rpn_reg.{affine}", "rpn.head.bbox_pred.{affine}"),
    ]


def _box_pairs(convs: int, norm: str = "bn") -> Pairs:
    theirs = "roi_head.bbox_head."
    pairs: Pairs = [
        (f"{theirs}fc_cls.{{affine}}", "roi_heads.box_predictor.cls_score.{affine}"),
        (f"{theirs}fc_reg.{{affine}}", "roi_heads.box_predictor.bbox_pred.{affine}"),
        ("head.fc.{affine}", "fc.{affine}"),  # of a classifier
    ]
    for i in range(convs):
        pairs += _conv_pairs(f"{theirs}shared_convs.{i}.", f"{_BOX}{i}.", norm)
    if convs:  # here they are one sequence: the convolutions, flattening, the layer
        return [*pairs, (f"{theirs}shared_fcs.0.{{affine}}", f"{_BOX}{convs + 1}.{{affine}}")]
    return pairs + [(f"{theirs}shared_fcs.{i}.{{affine}}", f"{_BOX}fc{6 + i}.{{affine}}") for i in range(_MOST_FCS)]


def _conv_pairs(theirs: str, ours: str, norm: str) -> Pairs:
    """mmcv's ConvModule: a convolution with its norm."""
    first, second = ("bn", "gn") if norm == "bn" else ("gn", "bn")
    norms = [(f"{theirs}{kind}.{{leaf}}", f"{ours}1.{{leaf}}") for kind in (first, second)]
    return [(f"{theirs}conv.{{affine}}", f"{ours}0.{{affine}}"), *norms]


def _norm_pairs(theirs: str, ours: str, norm: str, number: str) -> Pairs:
    """There a norm is called by its kind (bn1, gn1), here it is always bn1; in doubt `norm` is theirs."""
    first, second = ("bn", "gn") if norm == "bn" else ("gn", "bn")
    return [(f"{theirs}{kind}{number}.{{leaf}}", f"{ours}bn{number}.{{leaf}}") for kind in (first, second)]


def _norm(state: Mapping[str, Tensor], layer: str) -> str:
    """The kind of a norm of detres: a group norm has no statistics."""
    return "gn" if f"{layer}weight" in state and f"{layer}running_mean" not in state else "bn"


def _count(keys: Collection[str], pattern: str) -> int:
    """How many different numbers keys have where `pattern` has its group."""
    return len({found[1] for key in keys if (found := re.match(pattern, key))})


def _differences(model: Mapping[str, Any]) -> list[str]:
    """What mmdetection computes in another way than this model."""
    backbone = model["backbone"]
    if backbone["type"] != "resnet":
        return [f"mmdetection's Faster R-CNN has no backbone of type {backbone['type']}"]
    found = []
    if backbone["groups"] == 1 and backbone["width_per_group"] != 64:
        found.append("mmdetection has no wide ResNet (model.backbone.width_per_group)")
    if backbone["shortcut"] != "B":
        found.append(
            f"mmdetection's ResNet has shortcuts of type B (model.backbone.shortcut is {backbone['shortcut']})"
        )
    if backbone["norm"] == "none":
        found.append("mmdetection's ResNet has norms (model.backbone.norm is none)")
    if model["pixels"]["per_pixel_mean"] is not None:
        found.append("mmdetection subtracts a mean colour, not a mean image (model.pixels.per_pixel_mean)")
    return found if model["type"] == "classifier" else found + _detector_differences(model)


def _detector_differences(model: Mapping[str, Any]) -> list[str]:
    backbone, anchors, rpn, heads = model["backbone"], model["anchors"], model["rpn"], model["roi_heads"]
    conv5, basic = heads["box_head"]["type"] == "conv5", backbone["depth"] in (18, 34)
    relative = [[size / level[0] for size in level] for level in anchors["sizes"]]
    possible = (
        (rpn["symmetric_clamp"], f"{_CLAMP} (model.rpn.symmetric_clamp is false)"),
        (heads["symmetric_clamp"], f"{_CLAMP} (model.roi_heads.symmetric_clamp is false)"),
        (not anchors["rounded"], "anchors are not rounded (model.anchors.rounded is true)"),
        (anchors["stride"] == "nominal", "anchors stand at nominal strides (model.anchors.stride is from_shape)"),
        (all(_near(r, relative[0]) for r in relative), "all levels have the same scales (model.anchors.sizes)"),
        (rpn["score_threshold"] == 0, "proposals have no least score (model.rpn.score_threshold)"),
        (rpn["normalize_by"] == "sampled", "RPN losses are divided by the number of sampled anchors"),
        (not heads["sampling"].get("ohem"), "regions are drawn at random (model.roi_heads.sampling.ohem is true)"),
        (heads["min_size"] == 0, "detections have no least size (model.roi_heads.min_size)"),
        (not (backbone["dilated_c5"] and basic), DILATED_BASIC),
        (not (conv5 and backbone["groups"] > 1), "its second stage of C4 has no groups (model.backbone.groups)"),
        (not (conv5 and backbone["avg_pool_shortcut"]), "its second stage of C4 has no avg_pool_shortcut"),
    )
    return [f"in mmdetection {text}" for same, text in possible if not same]


def _near(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) < 1e-6 for x, y in zip(a, b, strict=True))
