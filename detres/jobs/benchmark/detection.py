"""Faster R-CNN compared: inference of both versions of torchvision's, and training steps."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from detres.detector import FasterRCNN
from detres.engine.allocator import AllocatorName
from detres.jobs.benchmark.agreement import (
    check_inference,
    check_losses,
    check_settings,
    same_detections,
    same_maps,
)
from detres.jobs.benchmark.conditions import OURS, Conditions
from detres.jobs.benchmark.contest import Contest
from detres.jobs.benchmark.timing import Lap, Side
from detres.jobs.benchmark.training import (
    check_steps,
    describe,
    our_training,
    plain_step,
    their_training,
    timed_step,
)
from detres.jobs.benchmark.twins import Inputs, Twins, make_inputs, make_twins
from detres.layers.winograd import WinogradConv2d
from detres.structures import Batch

Step = Callable[[Lap], None]
_CHECKED_BATCH, _CHECKED_SIDE = 2, 256  # at most, where losses and gradient of everything are compared
_EAGER = {"mode": "eager", "memory format": "planes"}


def compare_detectors(
    work: str,
    conditions: Conditions,
    size_hw: Sequence[int],
    batch_size: int,
    image: str | None = None,
    num_proposals: tuple[int, int] = (2000, 1000),
) -> Contest:
    """Both sides of "infer", "infer_v2" or "train", checked to compute the same. Raises DifferentWork."""
    twins = make_twins(conditions.device, num_proposals, version=2 if work == "infer_v2" else 1)
    inputs = make_inputs(size_hw, batch_size, image, conditions.device)
    conditions.progress(
        f"{work}, {batch_size} x {size_hw[0]} x {size_hw[1]}, {inputs.source}: do both sides compute the same?"
    )
    check_settings(twins)
    about: dict[str, Any] = {"size_hw": list(size_hw), "batch_size": batch_size, "input": inputs.source}
    losses: dict[str, Any] = {}
    if work == "train":
        about["checked"] = small = [min(_CHECKED_BATCH, batch_size), *(min(_CHECKED_SIDE, side) for side in size_hw)]
        twins.expect(small[1:])
        losses = check_losses(twins, make_inputs(small[1:], small[0], image, conditions.device))
    twins.expect(size_hw)
    make = _training if work == "train" else _inference
    same, theirs, ours, plain = make(twins, inputs, conditions)
    about["same"] = losses | same
    return Contest({conditions.opponent: theirs, OURS: ours}, about, plain, may_save=work == "train")


def _inference(twins: Twins, inputs: Inputs, conditions: Conditions) -> tuple[dict[str, Any], Side, Side, Side]:
    same, reference = check_inference(twins, inputs)
    optimised = copy.deepcopy(twins.ours).optimize_for_inference(
        precision=conditions.precision, compile=conditions.compile
    )
    same["timed maps"] = same_maps(twins.ours, optimised, inputs, conditions.precision)
    with torch.no_grad():
        found = optimised.predict(inputs.batch())
    same["timed detections"] = same_detections(reference, found, conditions.precision)

    @torch.no_grad()
    def their_step(lap: Lap) -> None:
        with conditions.their_autocast():
            twins.theirs(inputs.theirs)
        lap("selection")

    theirs = _their_side(twins, their_step, conditions)
    plain = _our_side(twins.ours, _prediction(twins.ours, inputs), conditions.allocator_of("plain"), _PLAIN)
    settings = {
        "precision": conditions.precision,
        "mode": "compiled" if conditions.compile else "eager",
        "memory format": "channels last",
        "norms": "folded",
    }
    if any(isinstance(module, WinogradConv2d) for module in optimised.modules()):
        settings["3x3 convolutions"] = "Winograd"
    ours = _our_side(optimised, _prediction(optimised, inputs), conditions.allocator_of(OURS), settings)
    return same, plain if conditions.against == OURS else theirs, ours, plain


def _prediction(model: FasterRCNN, inputs: Inputs) -> Step:
    def step(lap: Lap) -> None:
        batch = inputs.batch()
        lap("input")
        model.predict(batch)
        lap("selection")

    return step


def _training(twins: Twins, inputs: Inputs, conditions: Conditions) -> tuple[dict[str, Any], Side, Side, Side]:
    def batch() -> Batch:
        count = len(inputs.pictures)
        return Batch(inputs.batch(), inputs.our_targets, list(range(count)), [inputs.source] * count)

    unchanged, timed = plain_step(twins.ours, conditions), timed_step(twins.ours, conditions)
    same = check_steps(unchanged, timed, batch())
    their_step = their_training(twins.theirs, lambda: twins.theirs(inputs.theirs, inputs.their_targets), conditions)
    theirs = _with_forward(_their_side(twins, their_step, conditions), twins.theirs)
    plain, ours = (
        _with_forward(_our_side(step.model, our_training(step, batch), allocator, describe(step)), step.model)
        for step, allocator in (
            (unchanged, conditions.allocator_of("plain")),
            (timed, conditions.allocator_of(OURS)),
        )
    )
    return same, plain if conditions.against == OURS else theirs, ours, plain


_PLAIN = {"precision": "float32", **_EAGER}


def _their_side(twins: Twins, step: Step, conditions: Conditions) -> Side:
    model = twins.theirs
    modules = _modules(model, model.transform, model.roi_heads.box_roi_pool)
    settings = {"precision": conditions.their_precision, **_EAGER}
    return Side(step, modules, conditions.allocator_of("torchvision"), settings)


def _our_side(model: Any, step: Step, allocator: AllocatorName, settings: dict[str, str]) -> Side:
    return Side(step, _modules(model, model.pixels, model.roi_heads.pooler), allocator, settings)


def _with_forward(side: Side, model: Any) -> Side:
    """In training the forward pass is no phase of its own: it is read around the whole model."""
    return replace(side, modules={**side.modules, "selection": [model]})


def _modules(model: Any, normalise: Any, pooling: Any) -> dict[str, list[Any]]:
    return {
        "input": [normalise],
        "backbone, FPN": [model.backbone],
        "RPN head": [model.rpn.head],
        "proposals": [model.rpn],
        "RoI pooling": [pooling],
        "box head": [model.roi_heads.box_head, model.roi_heads.box_predictor],
    }
