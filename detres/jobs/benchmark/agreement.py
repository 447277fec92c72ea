"""Do both sides compute the same? Times of different work are not compared.

Shapes: D boxes (proposals or detections) of one image.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detres.jobs.benchmark.twins import Inputs, Twins, settings_of_ours, settings_of_theirs
from detres.structures.boxes import pairwise_iou

_EVERYTHING = 1 << 18  # a sample size that takes every anchor and region
_LOSS_NAMES = {
    "loss_objectness": "loss_rpn_objectness",
    "loss_rpn_box_reg": "loss_rpn_box",
    "loss_classifier": "loss_classifier",
    "loss_box_reg": "loss_box",
}


class DifferentWork(ValueError):
    """The two sides do not compute the same, so that their times say nothing about each other."""


def check_same_work(work: str, twins: Twins, inputs: Inputs) -> dict[str, Any]:
    """How closely the two sides agree at "infer" or "train". Raises DifferentWork naming what differs."""
    theirs, ours = settings_of_theirs(twins.theirs), settings_of_ours(twins.ours)
    different = [name for name in theirs if theirs[name] != ours[name]]
    if different:
        listed = "; ".join(f"{name}: torchvision {theirs[name]}, detres {ours[name]}" for name in different)
        raise DifferentWork(f"the two sides are set to different work: {listed}")
    return _check_inference(twins, inputs) if work == "infer" else _check_losses(twins, inputs)


@torch.no_grad()
def _check_inference(twins: Twins, inputs: Inputs) -> dict[str, Any]:
    """Proposals and detections: equally many, and the same but for rounding at the thresholds."""
    twins.theirs.eval(), twins.ours.eval()
    with _outputs({"theirs": twins.theirs.rpn, "ours": twins.ours.rpn}) as seen:
        expected, found = twins.theirs(inputs.theirs), twins.ours.predict(inputs.batch())
    return {
        "proposals": agreement("proposals", seen["theirs"][0], _unpadded(seen["ours"][0])),
        "detections": agreement(
            "detections",
            [e["boxes"] for e in expected],
            [f.boxes_xyxy for f in found],
            [e["labels"] - 1 for e in expected],
            [f.labels for f in found],
        ),
    }


@torch.no_grad()
def _check_losses(twins: Twins, inputs: Inputs) -> dict[str, Any]:
    """Proposals as above, and the four losses to 1e-4 when every anchor and every proposal is sampled."""
    twins.theirs.train(), twins.ours.train()
    with _everything_sampled(twins), _outputs({"theirs": twins.theirs.rpn, "ours": twins.ours.rpn}) as seen:
        expected = twins.theirs(inputs.theirs, inputs.their_targets)
        got = twins.ours(inputs.batch(), inputs.our_targets)
    same: dict[str, Any] = {"proposals": agreement("proposals", seen["theirs"][0], _unpadded(seen["ours"][0]))}
    for their_name, name in _LOSS_NAMES.items():
        theirs, ours = float(expected[their_name]), float(got[name])
        if not abs(ours - theirs) <= 1e-4 * abs(theirs):
            raise DifferentWork(
                f"{name}: torchvision computes {theirs:.6g}, detres {ours:.6g}; expected 1e-4 or closer"
            )
        same[name] = {"torchvision": theirs, "detres": ours}
    return same


def agreement(
    what: str,
    theirs: Sequence[Tensor],
    ours: Sequence[Tensor],
    their_labels: Sequence[Tensor] | None = None,
    our_labels: Sequence[Tensor] | None = None,
) -> dict[str, Any]:
    """How many boxes (D, 4) each image has, and which share has its like (IoU > 0.99, same label) on the other side.

    Raises DifferentWork when the numbers differ or that share is below 99 %: rounding moves a few over a threshold.
    """
    counts = [len(boxes) for boxes in theirs]
    if counts != [len(boxes) for boxes in ours]:
        raise DifferentWork(f"{what} per image: torchvision has {counts}, detres {[len(boxes) for boxes in ours]}")
    matched = 0.0
    for i, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        same = pairwise_iou(a, b) > 0.99
        if their_labels is not None and our_labels is not None:
            same &= their_labels[i][:, None] == our_labels[i][None]
        matched += 0.5 * float(same.any(1).sum() + same.any(0).sum()) if len(a) else 0.0
    share = matched / sum(counts) if sum(counts) else 1.0
    if share < 0.99:
        raise DifferentWork(f"{what}: only {share:.1%} of {sum(counts)} have the same box (IoU > 0.99) and label")
    return {"per_image": counts, "same": share}


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
    places = [
        (twins.theirs.rpn.fg_bg_sampler, "batch_size_per_image"),
        (twins.theirs.roi_heads.fg_bg_sampler, "batch_size_per_image"),
        (twins.ours.rpn, "batch_size"),
        (twins.ours.roi_heads, "batch_size"),
    ]
    before = [getattr(owner, name) for owner, name in places]
    for owner, name in places:
        setattr(owner, name, _EVERYTHING)
    try:
        yield
    finally:
        for (owner, name), value in zip(places, before, strict=True):
            setattr(owner, name, value)
