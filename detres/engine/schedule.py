"""Learning-rate schedules as pure functions of the step, and their scaling to the batch at hand.

A factor multiplies the learning rate of every parameter group. Steps count from 0: `factor(step)` is used for the
update that makes step `step + 1`.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal


def multistep_factor(step: int, milestones: Sequence[float], gamma: float = 0.1) -> float:
    """`gamma` to the power of the number of milestones reached."""
    return gamma ** bisect_right(milestones, step)


def cosine_factor(step: int, steps: int, final_factor: float = 0.0) -> float:
    """Half a cosine from 1 at step 0 to `final_factor` at `steps` (Loshchilov and Hutter, 2017, without restarts)."""
    share = min(step / steps, 1.0)
    return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * share))


def with_warmup(
    factor: Callable[[int], float],
    step: int,
    warmup_steps: int,
    warmup_factor: float = 0.001,
    shape: Literal["linear", "constant"] = "linear",
) -> float:
    """`factor(step)`, but during the first `warmup_steps` a rise to it.

    As in detectron2: from `warmup_factor * factor(0)` straight to the value at the end of the warm-up, even where a
    milestone lies inside ("constant": stays at the start value).
    """
    if step >= warmup_steps:
        return factor(step)
    start, end = warmup_factor * factor(0), factor(warmup_steps)
    return start if shape == "constant" else start + (end - start) * step / warmup_steps


@dataclass
class Plateau:
    """A factor that falls by `gamma` after `patience` evaluations without gain (0 counts as 1), not below
    `min_factor`. The only schedule with a state.
    """

    gamma: float = 0.1
    patience: int = 3
    min_factor: float = 1e-3
    factor: float = 1.0
    waited: int = 0

    def observe(self, gained: bool) -> bool:
        """Take note of one evaluation; returns whether the factor fell."""
        self.waited = 0 if gained else self.waited + 1
        if self.waited < max(self.patience, 1) or self.factor <= self.min_factor:
            return False
        self.factor = max(self.factor * self.gamma, self.min_factor)
        self.waited = 0
        return True


@dataclass
class WarmUpUntil:
    """A constant `factor` until the training error of a logged step is below `error` (ResNet paper, section 4.2)."""

    error: float
    factor: float
    over: bool = False

    def observe(self, values: Mapping[str, float]) -> None:
        """Take note of the values of one training step; those without `error_top1` tell nothing."""
        self.over = self.over or values.get("error_top1", 1.0) < self.error


@dataclass(frozen=True)
class Schedule:
    """The factor of every step: `schedule(step)`."""

    factor: Callable[[int], float]
    plateau: Plateau | None = None
    until: WarmUpUntil | None = None

    def __call__(self, step: int) -> float:
        warm_up = self.until.factor if self.until and not self.until.over else 1.0
        return self.factor(step) * (self.plateau.factor if self.plateau else 1.0) * warm_up

    def observe(self, gained: bool) -> bool:
        """Tell the schedule of one evaluation; returns whether it lowered the learning rate."""
        return self.plateau is not None and self.plateau.observe(gained)

    def observe_step(self, values: Mapping[str, float]) -> None:
        """Tell the schedule the values of a logged training step, by name."""
        if self.until is not None:
            self.until.observe(values)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: nothing, but for the plateau schedule and a warm-up that waits for an error."""
        state: dict[str, Any] = {"warmed_up": self.until.over} if self.until else {}
        return state | ({"factor": self.plateau.factor, "waited": self.plateau.waited} if self.plateau else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; a state of another kind of schedule is left aside."""
        if self.until and "warmed_up" in state:
            self.until.over = state["warmed_up"]
        if self.plateau and "factor" in state:
            self.plateau.factor, self.plateau.waited = state["factor"], state["waited"]


def build_schedule(
    *,
    type: Literal["multistep", "cosine", "plateau", "constant"],
    steps: int,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    final_factor: float = 0.0,
    patience: int = 3,
    min_factor: float = 1e-3,
    warmup_steps: int = 0,
    warmup_factor: float = 0.001,
    warmup_shape: Literal["linear", "constant"] = "linear",
    warmup_until_error: float | None = None,
) -> Schedule:
    """The schedule of a run of `steps` steps; arguments that a type does not use are ignored.

    With `warmup_until_error` the rate is `warmup_factor` of its own until the training error is below that, however
    many steps it takes; `warmup_steps` must then be 0.

    Raises ValueError for an unknown type.
    """
    plain: dict[str, Callable[[int], float]] = {
        "multistep": lambda step: multistep_factor(step, milestones, gamma),
        "cosine": lambda step: cosine_factor(step, steps, final_factor),
        "plateau": lambda step: 1.0,
        "constant": lambda step: 1.0,
    }
    if type not in plain:
        raise ValueError(f"schedule type {type!r} is unknown, expected one of {', '.join(plain)}")

    def factor(step: int) -> float:
        return with_warmup(plain[type], step, warmup_steps, warmup_factor, warmup_shape)

    assert warmup_until_error is None or not warmup_steps, "a warm-up has one end"
    return Schedule(
        factor,
        Plateau(gamma, patience, min_factor) if type == "plateau" else None,
        None if warmup_until_error is None else WarmUpUntil(warmup_until_error, warmup_factor),
    )


@dataclass(frozen=True)
class ScaledSchedule:
    """Learning rate and lengths (in steps) for the batch at hand; `changes` says what became of each, for people."""

    lr: float
    warmup_steps: int
    steps: int
    milestones: tuple[int, ...]
    changes: tuple[str, ...] = field(default=(), compare=False)

    def describe(self) -> str:
        """One line to print: what was scaled, or that nothing was."""
        return ", ".join(self.changes) if self.changes else "learning rate and schedule as configured"


def scale_to_batch(
    *,
    lr: float,
    warmup_steps: int,
    actual: int,
    reference: int | None = None,
    rule: Literal["linear", "sqrt", "none"] = "linear",
    steps: int | None = None,
    epochs: float | None = None,
    steps_per_epoch: float | None = None,
    milestones: Sequence[float] = (),
) -> ScaledSchedule:
    """Settings made for batches of `reference` images, for batches of `actual` images.

    The learning rate follows `rule` (linear: Goyal et al., 2017); the warm-up and, when the run is given in `steps`,
    the steps and milestones stretch so that as many images are seen. A run given in `epochs` (with milestones in
    epochs) needs `steps_per_epoch` of the actual batch. A warm-up is cut to half the run: under a cosine, a longer one
    would never reach a useful rate. Raises ValueError unless exactly one of steps, epochs is set.
    """
    if (steps is None) == (epochs is None):
        raise ValueError(f"set one of steps and epochs, got steps={steps} and epochs={epochs}")
    ratio = 1.0 if reference is None else actual / reference
    stretch = 1 / ratio
    if epochs is not None:
        if steps_per_epoch is None:
            raise ValueError("a run in epochs needs steps_per_epoch")
        length, unit = epochs, steps_per_epoch
    else:
        assert steps is not None
        length, unit = steps, stretch
    total = max(round(length * unit), 1)
    scaled = ScaledSchedule(
        lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule],
        min(round(warmup_steps * stretch), total // 2),
        total,
        tuple(min(round(milestone * unit), total - 1) for milestone in milestones),
    )
    changes = []
    if ratio != 1.0:
        as_written = "train.reference_batch_size=null keeps the numbers as written"
        changes += [f"batch {actual} instead of {reference} ({as_written})", f"lr {lr:g} → {scaled.lr:g} ({rule})"]
    if scaled.warmup_steps != warmup_steps:
        half = " (half the run)" if scaled.warmup_steps < round(warmup_steps * stretch) else ""
        changes.append(f"warm-up {warmup_steps} → {scaled.warmup_steps} steps{half}")
    if epochs is None and ratio != 1.0:
        changes.append(f"length {steps} → {scaled.steps} steps")
        if milestones:
            before, after = (", ".join(f"{m:g}" for m in ms) for ms in (milestones, scaled.milestones))
            changes.append(f"milestones {before} → {after}")
    return replace(scaled, changes=tuple(changes))
