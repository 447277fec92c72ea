"""detectron2's names: its Faster R-CNN on C4, DC5 and FPN, its ResNet classifiers, and bare backbones of either.

    detector    backbone.[bottom_up.]stem.*, ....res2.* to res5.*, backbone.fpn_lateral2.*, backbone.fpn_output2.*, ...,
                proposal_generator.rpn_head.*, roi_heads.res5.* (C4), roi_heads.box_head.*, roi_heads.box_predictor.*
    all others  stem.*, res2.* ... and stem.fc.*, as its converter of torchvision's ResNets writes them

A convolution's norm is called after it (conv1.norm), and so is the norm of its Frozen, Sync and group kinds. The names
are those of detectron2's modeling/ (resnet.py, fpn.py, rpn.py, box_head.py) and of projects/DeepLab for the deep stem.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from detres.weights.formats.class_names import names_by_number
from detres.weights.formats.detectron2_conventions import conventions
from detres.weights.formats.detectron2_settings import settings_for
from detres.weights.formats.interface import Implied
from detres.weights.formats.renaming import Renaming
from detres.weights.formats.shapes import describe_model, merge, num_classes
from detres.weights.report import WeightsError

NAME = "detectron2"
BACKGROUND = "last"
IGNORABLE = (r"pixel_(mean|std)$", r"(proposal_generator\.)?anchor_generator\.cell_anchors\.\d+$")

_RPN, _BOX = "proposal_generator.rpn_head.", "roi_heads.box_head."
_DEEP_STEM = (("conv1", "conv1.0"), ("conv1.norm", "conv1.1"), ("conv2", "conv1.3"), ("conv2.norm", "conv1.4"),
              ("conv3", "conv1.6"), ("conv3.norm", "bn1"))  # fmt: skip
_MOST_FCS = 9


class _Layout(NamedTuple):
    """What decides the name of a tensor besides the tensor itself.

    prefix     of a detector's backbone, "backbone."; empty for a backbone that stands alone
    fpn        the levels of the pyramid, such as 2, 3, 4, 5; empty without one
    box_convs  how many convolutions the box head has
    """

    prefix: str
    fpn: tuple[int, ...]
    deep_stem: bool
    rpn_convs: int
    box_convs: int


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of one of detectron2's ResNets or of a detector on one."""
    return any(re.fullmatch(r"(backbone\.)?(bottom_up\.)?stem\.conv1\.weight", key) for key in keys)


def to_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under detres's names; WeightsError lists the keys that have none."""
    return Renaming(_pairs(_their_layout(state))).to_ours(state, NAME, IGNORABLE)


def from_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under detectron2's names; a detector's background must stand last.

    Raises WeightsError that lists the keys without a name there.
    """
    if any(".downsample.2." in key for key in state):
        raise WeightsError(
            "detectron2 has no averaging shortcuts (model.backbone.avg_pool_shortcut true), so that it cannot take "
            "these weights; export to timm's or mmdetection's names, or train without that setting"
        )
    return Renaming(_pairs(_our_layout(state))).to_theirs(state, NAME)


def implied(state: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Implied:
    """The network, detectron2's conventions (its Base-RCNN-*.yaml) and what a training checkpoint says about pixels.

    Raises WeightsError when the backbone is no ResNet that detres builds.
    """
    ours = to_detres(state)
    model = describe_model(ours)
    more, assumed = conventions(model, state, from_torchvision=extra.get("__author__") == "torchvision")
    if model["type"] != "faster_rcnn":
        return Implied(merge(model, more), (), tuple(assumed))
    names, text = names_by_number(num_classes(ours))
    return Implied(merge(model, more), names, (*assumed, text) if text else tuple(assumed))


def instructions(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """detectron2's YAML settings, one a line, that make it compute the same, and what it cannot do so."""
    return settings_for(model, num_classes(state))


def _their_layout(keys: Iterable[str]) -> _Layout:
    keys = list(keys)
    prefix = "backbone." if any(key.startswith("backbone.") for key in keys) else ""
    return _Layout(
        prefix,
        fpn=_numbers(keys, prefix + r"fpn_lateral(\d+)\.weight"),
        deep_stem=any(key.endswith("stem.conv2.weight") for key in keys),
        rpn_convs=len(_numbers(keys, re.escape(_RPN) + r"conv\.conv(\d+)\.weight")) or 1,
        box_convs=len(_numbers(keys, re.escape(_BOX) + r"conv(\d+)\.weight")),
    )


def _our_layout(keys: Iterable[str]) -> _Layout:
    keys = list(keys)
    num_levels = len(_numbers(keys, r"backbone\.fpn\.inner_blocks\.(\d+)\.0\.weight"))
    stages = _numbers(keys, r"backbone\.body\.layer(\d)\.0\.conv1\.weight")
    coarsest = max(stages, default=4) + 1
    return _Layout(
        prefix="backbone." if any(key.startswith(("rpn.", "roi_heads.")) for key in keys) else "",
        fpn=tuple(range(coarsest - num_levels + 1, coarsest + 1)),
        deep_stem=any(key.endswith("conv1.6.weight") for key in keys),
        rpn_convs=len(_numbers(keys, r"rpn\.head\.conv\.(\d+)\.0\.weight")),
        box_convs=len(_numbers(keys, re.escape(_BOX) + r"(\d+)\.0\.weight")),
    )


def _pairs(layout: _Layout) -> list[tuple[str, str]]:
    """Names, theirs and ours."""
    theirs = layout.prefix + ("bottom_up." if layout.fpn else "")
    ours = "backbone.body." if layout.fpn else "backbone."
    stem = _DEEP_STEM if layout.deep_stem else (("conv1", "conv1"), ("conv1.norm", "bn1"))
    pairs = [(f"{theirs}stem.{there}.{{leaf}}", f"{ours}{here}.{{leaf}}") for there, here in stem]
    for stage in (2, 3, 4, 5):
        pairs += _block(f"{theirs}res{stage}.", f"{ours}layer{stage - 1}.")
    pairs.append(("stem.fc.{affine}", "fc.{affine}"))
    for i, level in enumerate(layout.fpn):
        for there, here in (("lateral", "inner_blocks"), ("output", "layer_blocks")):
            name = f"{layout.prefix}fpn_{there}{level}"
            pairs.append((f"{name}.{{affine}}", f"backbone.fpn.{here}.{i}.0.{{affine}}"))
            pairs.append((f"{name}.norm.{{leaf}}", f"backbone.fpn.{here}.{i}.1.{{leaf}}"))
    pairs.append((layout.prefix + "top_block.p{n}.{affine}", "backbone.fpn.extra_blocks.p{n}.{affine}"))
    return [*pairs, *_rpn_pairs(layout), *_head_pairs(layout)]


def _block(theirs: str, ours: str) -> list[tuple[str, str]]:
    """The layers of a stage's blocks."""
    layers = [(f"conv{n}", f"conv{n}", f"bn{n}") for n in (1, 2, 3)] + [("shortcut", "downsample.0", "downsample.1")]
    pairs = []
    for there, conv, norm in layers:
        pairs.append((f"{theirs}{{i}}.{there}.weight", f"{ours}{{i}}.{conv}.weight"))
        pairs.append((f"{theirs}{{i}}.{there}.norm.{{leaf}}", f"{ours}{{i}}.{norm}.{{leaf}}"))
    return pairs


def _rpn_pairs(layout: _Layout) -> list[tuple[str, str]]:
    conv = ("conv.conv{k}", "conv.{k}.0") if layout.rpn_convs > 1 else ("conv", "conv.0.0")
    layers = [conv, ("objectness_logits", "cls_logits"), ("anchor_deltas", "bbox_pred")]
    return [(f"{_RPN}{there}.{{affine}}", f"rpn.head.{here}.{{affine}}") for there, here in layers]


def _head_pairs(layout: _Layout) -> list[tuple[str, str]]:
    pairs = _block("roi_heads.res5.", f"{_BOX}layer4.")
    for i in range(layout.box_convs):
        pairs.append((f"{_BOX}conv{i + 1}.{{affine}}", f"{_BOX}{i}.0.{{affine}}"))
        pairs.append((f"{_BOX}conv{i + 1}.norm.{{leaf}}", f"{_BOX}{i}.1.{{leaf}}"))
    if layout.box_convs:  # ours is a row of layers: the convolutions, one that flattens, the fully connected one
        fcs = [(f"{_BOX}fc1", f"{_BOX}{layout.box_convs + 1}")]
    else:
        fcs = [(f"{_BOX}fc{i + 1}", f"{_BOX}fc{i + 6}") for i in range(_MOST_FCS)]
    fcs += [(name, name) for name in ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred")]
    return pairs + [(f"{there}.{{affine}}", f"{here}.{{affine}}") for there, here in fcs]


def _numbers(keys: Iterable[str], pattern: str) -> tuple[int, ...]:
    """The numbers that the pattern's group finds in keys, rising."""
    return tuple(sorted({int(found[1]) for key in keys if (found := re.fullmatch(pattern, key))}))
