"""Where a step goes: seconds, or floating-point operations, by part.

A part inside another is read within it and taken from it: what is left carries the outer one's name. So "proposals" is
the RPN without its head, "selection" the forward pass without the parts named, "backward" the gradients without it.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detres.jobs.benchmark.timing import Side, clock, settle

Reader = Callable[[], float]
_INSIDE = {
    "input": "selection",
    "backbone, FPN": "selection",
    "RPN head": "proposals",
    "proposals": "selection",
    "RoI pooling": "selection",
    "box head": "selection",
    "selection": "backward",
    "forward": "backward",
}
PARTS = (
    "decoding", "transforms", "loading", "input", "backbone, FPN", "RPN head", "proposals", "RoI pooling", "box head",
    "selection", "forward", "backward", "forward and backward", "learning", "optimizer", "conversion", "evaluation",
)  # fmt: skip
"""In the order of a step."""


def measure_parts(sides: Mapping[str, Side], repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds by part, medians over `repeats` passes of their own: the clocks in between cost a little."""
    passes: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            settle(side)
            passes[name].append(read_parts(side, lambda: clock(device)))
    return {
        name: {part: statistics.median(one[part] for one in each) for part in PARTS if part in each[0]}
        for name, each in passes.items()
    }


def count_parts(side: Side) -> dict[str, float]:
    """Floating-point operations of a step by part, as torch counts them: two for each multiply-add."""
    with FlopCounterMode(display=False) as counter:
        counted = read_parts(side, lambda: float(counter.get_total_flops()))
    return {part: counted[part] for part in PARTS if counted.get(part)}


def read_parts(side: Side, read: Reader) -> dict[str, float]:
    """One step, with a reading at each phase and around each module."""
    phases: dict[str, float] = defaultdict(float)
    last = read()

    def lap(phase: str) -> None:
        nonlocal last
        now = read()
        phases[phase] += now - last
        last = now

    with _readings(side.modules, read) as inner:
        side.step(lap)
    whole = {part: phases.get(part, 0.0) + inner.get(part, 0.0) for part in (*phases, *inner)}
    own = dict(whole)
    for part, amount in inner.items():
        if outer := _next_outside(part, whole):
            own[outer] -= amount
    if side.modules and "backward" in own and not {"selection", "forward"} & set(inner):
        own["forward and backward"] = own.pop("backward")  # compiled modules call no hooks
    return own


def _next_outside(part: str, known: Mapping[str, float]) -> str | None:
    """The innermost part around `part` that was read."""
    outer = _INSIDE.get(part)
    while outer is not None and outer not in known:
        outer = _INSIDE.get(outer)
    return outer


@contextmanager
def _readings(modules: Mapping[str, Sequence[nn.Module]], read: Reader) -> Iterator[dict[str, float]]:
    """What passes in the modules of each part inside the block; without the parts that were not called."""
    found: dict[str, float] = {}
    with ExitStack() as undo:
        for part, members in modules.items():
            for module in members:
                _watch(module, part, found, read, undo)
        yield found


def _watch(module: Any, part: str, found: dict[str, float], read: Reader, undo: ExitStack) -> None:
    """Add what passes in each call of `module` to found[part], until `undo` closes."""

    def start(*_: Any) -> None:
        found[part] = found.get(part, 0.0) - read()

    def stop(*_: Any) -> None:
        found[part] += read()

    compiled = getattr(module, "_compiled_call_impl", None)  # what module.compile() made: it knows no later hooks
    if compiled is None:
        for handle in (module.register_forward_pre_hook(start), module.register_forward_hook(stop)):
            undo.callback(handle.remove)
        return

    def timed(*args: Any, **options: Any) -> Any:
        start()
        result = compiled(*args, **options)
        stop()
        return result

    module._compiled_call_impl = timed
    undo.callback(setattr, module, "_compiled_call_impl", compiled)


def total(parts: Mapping[str, float]) -> float:
    """The sum over all parts."""
    return sum(parts.values())
