"""What is timed, and how: the two sides in turns, and where the time of each goes."""

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from detres.jobs.benchmark.twins import Inputs, Twins

Lap = Callable[[str], None]
_FORWARD = "forward"
_IN_RPN, _REST = "proposals", "selection"  # what is left of the RPN, and of the whole forward pass
PARTS = ("input", "backbone, FPN", "RPN head", _IN_RPN, "RoI pooling", "box head", _REST, "backward", "optimizer")


@dataclass(frozen=True)
class Side:
    """One competitor: `step` does the work once and calls lap(name) at the end of each phase.

    modules: which of its modules make up the parts of the forward pass
    """

    step: Callable[[Lap], None]
    modules: Mapping[str, Sequence[nn.Module]]


def make_sides(work: str, twins: Twins, inputs: Inputs) -> dict[str, Side]:
    """Both sides of "infer" (images to detections) or "train" (forward, backward, SGD step)."""
    theirs, ours = twins.theirs, twins.ours
    make = _inference_steps if work == "infer" else _training_steps
    their_step, our_step = make(twins, inputs)
    pooling = {"torchvision": theirs.roi_heads.box_roi_pool, "detres": ours.roi_heads.pooler}
    sides = {}
    for name, model, normalise, step in (
        ("torchvision", theirs, theirs.transform, their_step),
        ("detres", ours, ours.pixels, our_step),
    ):
        modules = {
            "input": [normalise],
            "backbone, FPN": [model.backbone],
            "RPN head": [model.rpn.head],
            _IN_RPN: [model.rpn],
            "RoI pooling": [pooling[name]],
            "box head": [model.roi_heads.box_head, model.roi_heads.box_predictor],
        }
        sides[name] = Side(step, modules)
    return sides


def _inference_steps(twins: Twins, inputs: Inputs) -> tuple[Callable[[Lap], None], Callable[[Lap], None]]:
    twins.theirs.eval(), twins.ours.eval()

    @torch.no_grad()
    def their_step(lap: Lap) -> None:
        twins.theirs(inputs.theirs)
        lap(_FORWARD)

    def our_step(lap: Lap) -> None:
        batch = inputs.batch()
        lap("input")
        twins.ours.predict(batch)
        lap(_FORWARD)

    return their_step, our_step


def _training_steps(twins: Twins, inputs: Inputs) -> tuple[Callable[[Lap], None], Callable[[Lap], None]]:
    """The learning rate is 0: a step costs the same, and every repeat finds the same weights."""
    optimizers = []
    for model in (twins.theirs.train(), twins.ours.train()):
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizers.append(torch.optim.SGD(learning, lr=0.0, momentum=0.9, weight_decay=1e-4))

    def learn(losses: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, lap: Lap) -> None:
        loss = torch.stack(list(losses.values())).sum()
        lap(_FORWARD)
        loss.backward()
        lap("backward")
        optimizer.step()
        optimizer.zero_grad()
        lap("optimizer")

    def their_step(lap: Lap) -> None:
        torch.manual_seed(0)  # torchvision samples by the global generator
        learn(twins.theirs(inputs.theirs, inputs.their_targets), optimizers[0], lap)

    def our_step(lap: Lap) -> None:
        batch = inputs.batch()
        lap("input")
        learn(twins.ours(batch, inputs.our_targets), optimizers[1], lap)

    return their_step, our_step


def compare(
    sides: Mapping[str, Side], repeats: int, device: torch.device, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Seconds of both sides, in turns after one unmeasured round, and how many times as fast the last one is.

    The ratio is taken within each pair of neighbours in time: what slows the machine for longer slows both.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(repeats + 1):
        for name, side in sides.items():
            gc.collect()
            started = clock(device)
            side.step(lambda _phase: None)
            if i > 0:
                seconds[name].append(clock(device) - started)
        if i > 0:
            progress(f"  {i}/{repeats}: " + ", ".join(f"{name} {each[-1]:.3f} s" for name, each in seconds.items()))
    first, last = seconds.values()
    ratios = [a / b for a, b in zip(first, last, strict=True)]
    return {"seconds": {name: summary(each) for name, each in seconds.items()}, "ratio": summary(ratios)}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes, and every value in order."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "each": list(values)}


def measure_parts(sides: Mapping[str, Side], repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds by part, medians over `repeats` passes of their own: the clocks in between cost a little."""
    passes: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            passes[name].append(_parts(side, device))
    return {
        name: {part: statistics.median(one[part] for one in each) for part in PARTS if part in each[0]}
        for name, each in passes.items()
    }


def _parts(side: Side, device: torch.device) -> dict[str, float]:
    """One pass, with a clock at each phase and around each module."""
    phases: dict[str, float] = defaultdict(float)
    last = clock(device)

    def lap(phase: str) -> None:
        nonlocal last
        now = clock(device)
        phases[phase] += now - last
        last = now

    with _clocks(side.modules, device) as parts:
        side.step(lap)
    forward = phases.pop(_FORWARD)
    parts[_REST] = forward - sum(seconds for part, seconds in parts.items() if part != "RPN head")
    parts[_IN_RPN] -= parts["RPN head"]
    for phase, seconds in phases.items():
        parts[phase] = parts.get(phase, 0.0) + seconds
    return parts


@contextmanager
def _clocks(modules: Mapping[str, Sequence[nn.Module]], device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds spent in the modules of each part inside the block."""
    seconds = dict.fromkeys(modules, 0.0)
    handles = []

    def start(part: str) -> None:
        seconds[part] -= clock(device)

    def stop(part: str) -> None:
        seconds[part] += clock(device)

    for part, members in modules.items():
        for module in members:
            handles.append(module.register_forward_pre_hook(lambda _module, _args, part=part: start(part)))
            handles.append(module.register_forward_hook(lambda _module, _args, _out, part=part: stop(part)))
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def clock(device: torch.device) -> float:
    """Seconds, after all that the device was told to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
