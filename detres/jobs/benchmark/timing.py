"""What is timed, and how: the two sides in turns in one process."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from detres.engine.allocator import AllocatorName, use_allocator

Lap = Callable[[str], None]
CONFIDENCE = 0.95  # of the interval in which the median lies
_SETTLING = 2  # steps; after them a detector on a CPU asks the system for no more pages than in any later one
_SHORTEST_TURN = 0.5  # seconds; shorter steps are repeated within a turn


@dataclass(frozen=True)
class Side:
    """One competitor: `step` does the work once and calls lap(name) at the end of each phase.

    modules    which of its modules make up the parts of the forward pass
    allocator  which settings of malloc it runs with
    settings   what else a reader has to know of it, by name
    """

    step: Callable[[Lap], None]
    modules: Mapping[str, Sequence[nn.Module]] = field(default_factory=dict)
    allocator: AllocatorName = "tuned"
    settings: Mapping[str, str] = field(default_factory=dict)


def compare(
    sides: Mapping[str, Side], repeats: int, device: torch.device, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Seconds of a step of both sides, in turns after unmeasured steps, and how many times as fast the last one is.

    The ratio is taken within each pair of neighbours in time: what slows the machine for longer slows both. A turn has
    as many steps as take half a second; where the sides have other allocators, each settles anew before.
    """
    longest = 0.0
    for side in sides.values():
        settle(side)
        longest = max(longest, _turn(side, 1, device))
    steps = max(1, math.ceil(_SHORTEST_TURN / max(longest, 1e-6))) if longest < _SHORTEST_TURN else 1
    alternate = len({side.allocator for side in sides.values()}) > 1
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(1, repeats + 1):
        for name, side in sides.items():
            if alternate:
                settle(side)
            seconds[name].append(_turn(side, steps, device))
        progress(f"  {i}/{repeats}: " + ", ".join(f"{name} {each[-1]:.3f} s" for name, each in seconds.items()))
    first, last = seconds.values()
    return {
        "steps_per_turn": steps,
        "seconds": {name: summary(each) for name, each in seconds.items()},
        "ratio": ratio(first, last),
    }


def measure(side: Side, repeats: int, device: torch.device) -> dict[str, Any]:
    """Seconds of a step of one side, once it has settled."""
    settle(side)
    return summary([_turn(side, 1, device) for _ in range(repeats)])


def settle(side: Side) -> None:
    """Have malloc work as that side wants it, and memory be as a run of many steps has it, not as the other left it."""
    use_allocator(side.allocator)
    for _ in range(_SETTLING):
        side.step(_no_lap)


def _turn(side: Side, steps: int, device: torch.device) -> float:
    """Seconds of a step, the mean over `steps`."""
    gc.collect()
    started = clock(device)
    for _ in range(steps):
        side.step(_no_lap)
    return (clock(device) - started) / steps


def _no_lap(_phase: str) -> None:
    """Between the steps that are timed nobody asks for phases."""


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """How many times as fast we are: the summary of the ratios of neighbours in time."""
    return summary([a / b for a, b in zip(theirs, ours, strict=True)])


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes, every value in order, and an interval of the median with its confidence."""
    low, high, confidence = median_interval(values)
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "interval": [low, high],
        "confidence": confidence,
        "each": list(values),
    }


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The narrowest pair of order statistics between which the median lies with 95 %, and with how much it does.

    Whatever the distribution, each of the n values lies below its median with probability 1/2; so it is between the
    k-th from below and the k-th from above with 1 - 2 P(Binomial(n, 1/2) < k). With five values or fewer these are
    the extremes, with less than 95 %.
    """
    ordered, n = sorted(values), len(values)
    outside = 2 * 0.5**n  # k = 1: all on one side
    k = 1
    while k < n // 2 and outside + 2 * math.comb(n, k) * 0.5**n <= 1 - CONFIDENCE:
        outside += 2 * math.comb(n, k) * 0.5**n
        k += 1
    return ordered[k - 1], ordered[n - k], max(0.0, 1 - outside)


def clock(device: torch.device) -> float:
    """Seconds, after all that the device was told to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
