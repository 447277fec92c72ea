"""Do both sides compute the same? Times of different work are not compared.

Shapes: D boxes (proposals or detections) of one image.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detres.detector import FasterRCNN
from detres.jobs.benchmark.twins import Inputs, Twins, settings_of_ours, settings_of_theirs
from detres.structures import Detections
from detres.structures.boxes import pairwise_iou

_EVERYTHING = 1 << 18  # a sample size that takes every anchor and region
_FEW = 256  # regions of an image to do so with
_LOSS_NAMES = {
    "loss_objectness": "loss_rpn_objectness",
    "loss_rpn_box_reg": "loss_rpn_box",
    "loss_classifier": "loss_classifier",
    "loss_box_reg": "loss_box",
}
_LOSS_TOLERANCE = 1e-4
_GRADIENT_TOLERANCE = 1e-2
_FLOP_TOLERANCE = 0.02
_LIKE = (0.99, 0.99)  # IoU of two boxes that are the same, and the share that must be
_ROUNDED_LIKE = (0.9, 0.25)  # of an 8-bit or 11-bit mantissa: boxes of random weights crowd around the thresholds
_MAP_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.01}


class DifferentWork(ValueError):
    """The two sides do not compute the same, so that their times say nothing about each other."""


def check_settings(twins: Twins) -> None:
    """Raises DifferentWork naming the options in which two detectors differ."""
    theirs, ours = settings_of_theirs(twins.theirs), settings_of_ours(twins.ours)
    different = [name for name in theirs if theirs[name] != ours[name]]
    if different:
        listed = "; ".join(f"{name}: torchvision {theirs[name]}, detres {ours[name]}" for name in different)
        raise DifferentWork(f"the two sides are set to different work: {listed}")


@torch.no_grad()
def check_inference(twins: Twins, inputs: Inputs) -> tuple[dict[str, Any], list[Detections]]:
    """Proposals and detections: equally many, and the same but for rounding at the thresholds; and torchvision's.

    Raises DifferentWork naming what differs.
    """
    twins.theirs.eval(), twins.ours.eval()
    with _outputs({"theirs": twins.theirs.rpn, "ours": twins.ours.rpn}) as seen:
        expected, found = twins.theirs(inputs.theirs), twins.ours.predict(inputs.batch())
    reference = [Detections(one["boxes"], one["scores"], one["labels"] - 1) for one in expected]
    proposals = agreement("proposals", seen["theirs"][0], _unpadded(seen["ours"][0]))
    return {"proposals": proposals, "detections": same_detections(reference, found)}, reference


def same_detections(
    reference: Sequence[Detections], found: Sequence[Detections], precision: str = "float32"
) -> dict[str, Any]:
    """How closely detections agree. In float32 99 % must have their like, a box of the same label with IoU > 0.99.

    In 16 bits scores move across thresholds and boxes suppress others instead, more so with random weights: there a
    quarter must have its like with IoU > 0.9. What that does to AP is a question for trained weights.
    """
    iou, least = _LIKE if precision == "float32" else _ROUNDED_LIKE
    return agreement(
        "detections",
        [each.boxes_xyxy for each in reference],
        [each.boxes_xyxy.float() for each in found],
        [each.labels for each in reference],
        [each.labels for each in found],
        iou=iou,
        least=least,
        as_many=precision == "float32",
    )


@torch.no_grad()
def same_maps(plain: FasterRCNN, timed: FasterRCNN, inputs: Inputs, precision: str) -> dict[str, Any]:
    """The difference of the backbone's maps as a share of them; DifferentWork beyond the rounding of the format."""
    expected, found = plain.features(inputs.batch()), timed.features(inputs.batch())
    return same_tensors("maps", expected, found, _MAP_TOLERANCES[precision])


def check_losses(twins: Twins, inputs: Inputs) -> dict[str, Any]:
    """The four losses to 1e-4 and their gradient to 1e-2 when every anchor and proposal is sampled; and the proposals.

    That is a lot more work than a step, so images should be small; at most 256 proposals of each go on.

    Raises DifferentWork naming what differs.
    """
    twins.theirs.train(), twins.ours.train()
    with _everything_sampled(twins), _outputs({"theirs": twins.theirs.rpn, "ours": twins.ours.rpn}) as seen:
        expected = twins.theirs(inputs.theirs, inputs.their_targets)
        got = twins.ours(inputs.batch(), inputs.our_targets)
    same: dict[str, Any] = {"proposals": agreement("proposals", seen["theirs"][0], _unpadded(seen["ours"][0]))}
    for their_name, name in _LOSS_NAMES.items():
        same[name] = same_value(name, float(expected[their_name].detach()), float(got[name].detach()), _LOSS_TOLERANCE)
    torch.stack(list(expected.values())).sum().backward()
    torch.stack(list(got.values())).sum().backward()
    same["gradient"] = same_tensors("gradient", gradients(twins.theirs), gradients(twins.ours), _GRADIENT_TOLERANCE)
    twins.theirs.zero_grad()
    twins.ours.zero_grad()
    return same


def same_value(
    name: str, theirs: float, ours: float, tolerance: float, opponent: str = "torchvision"
) -> dict[str, Any]:
    """Two numbers that are to be equal; DifferentWork where they differ by more than `tolerance` of theirs."""
    if not abs(ours - theirs) <= tolerance * abs(theirs):
        raise DifferentWork(
            f"{name}: {opponent} computes {theirs:.7g}, detres {ours:.7g}; expected {tolerance:g} or closer"
        )
    return {opponent: theirs, "detres": ours}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter that has one, by name."""
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def same_tensors(
    what: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], tolerance: float
) -> dict[str, Any]:
    """The length of the difference of all tensors together, as a share of theirs; DifferentWork beyond `tolerance`."""
    if theirs.keys() != ours.keys():
        one_sided = sorted(theirs.keys() ^ ours.keys())
        raise DifferentWork(f"{what}: only one side has {', '.join(one_sided[:3])} ({len(one_sided)} in all)")
    norm = sum(float(value.double().square().sum()) for value in theirs.values()) ** 0.5
    apart = sum(float((ours[name].double() - v.double()).square().sum()) for name, v in theirs.items()) ** 0.5
    if not apart <= tolerance * norm:
        raise DifferentWork(
            f"{what}: the two sides differ by {apart / max(norm, 1e-30):.2g} of their length; "
            f"expected {tolerance:g} or closer"
        )
    return {"difference": apart / norm if norm else 0.0, "tolerance": tolerance}


def same_operations(theirs: float, ours: float, may_save: bool = False) -> dict[str, Any]:
    """Floating-point operations of a step of both sides; DifferentWork where ours are fewer by more than 2 %.

    More may be: regions are padded to a fixed number, which small images do not have. `may_save`: fewer, too, where
    losses and gradient were found to be the same without them.
    """
    if not may_save and ours < (1 - _FLOP_TOLERANCE) * theirs:
        raise DifferentWork(
            f"operations: torchvision needs {theirs / 1e9:.3f} GFLOP, detres only {ours / 1e9:.3f}: it leaves out work"
        )
    return {"torchvision": theirs, "detres": ours}


def agreement(
    what: str,
    theirs: Sequence[Tensor],
    ours: Sequence[Tensor],
    their_labels: Sequence[Tensor] | None = None,
    our_labels: Sequence[Tensor] | None = None,
    *,
    iou: float = _LIKE[0],
    least: float = _LIKE[1],
    as_many: bool = True,
) -> dict[str, Any]:
    """How many boxes (D, 4) each image has, and which share has its like (IoU > `iou`, same label) on the other side.

    Raises DifferentWork when the numbers differ (by option) or that share is below `least`: rounding moves a few over
    a threshold.
    """
    counts, our_counts = [len(boxes) for boxes in theirs], [len(boxes) for boxes in ours]
    if as_many and counts != our_counts:
        raise DifferentWork(f"{what} per image: torchvision has {counts}, detres {our_counts}")
    matched = 0
    for i, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        same = pairwise_iou(a, b) > iou
        if their_labels is not None and our_labels is not None:
            same &= their_labels[i][:, None] == our_labels[i][None]
        matched += int(same.any(1).sum() + same.any(0).sum()) if len(a) and len(b) else 0
    both = sum(counts) + sum(our_counts)
    share = matched / both if both else 1.0
    if share < least:
        raise DifferentWork(f"{what}: only {share:.1%} of {sum(counts)} have the same box (IoU > {iou:g}) and label")
    return {"per_image": counts, "same": share, "iou": iou}


def _unpadded(proposals: Any) -> list[Tensor]:
    return [boxes[valid] for boxes, valid in zip(proposals.boxes_xyxy, proposals.valid, strict=True)]


@contextmanager
def _outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """What the modules return inside the block, by name."""
    seen: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda _module, _args, out, name=name: seen.__setitem__(name, out))
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _everything_sampled(twins: Twins) -> Iterator[None]:
    """Both sides learn from every anchor and region inside the block, so that no random choice tells them apart."""
    few = min(_FEW, twins.ours.rpn.post_nms_top_n[0])
    at_test = twins.ours.rpn.post_nms_top_n[1]
    places: list[tuple[Any, str, Any]] = [
        (twins.theirs.rpn.fg_bg_sampler, "batch_size_per_image", _EVERYTHING),
        (twins.theirs.roi_heads.fg_bg_sampler, "batch_size_per_image", _EVERYTHING),
        (twins.theirs.rpn, "_post_nms_top_n", {"training": few, "testing": at_test}),
        (twins.ours.rpn, "batch_size", _EVERYTHING),
        (twins.ours.roi_heads, "batch_size", _EVERYTHING),
        (twins.ours.rpn, "post_nms_top_n", (few, at_test)),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, value in places:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)
