"""The values around a training run: what feeds it, what is asked of it, how far it is, how it ended."""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from detres.engine.precision import PrecisionName
from detres.structures import Batch

Metrics = dict[str, float | None]


class TrainStream(Protocol):
    """A loader: an endless stream of batches (parts of a step) that can begin at any sample."""

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every image is seen once."""

    def stream(self, start_sample: int) -> Iterator[Batch]:
        """The batches from sample `start_sample` of the whole run on."""


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How to train; the meaning of each is that of the configuration's `train`.

    `eval_every` None: after every epoch; `checkpoint_every` None: at every evaluation. Both happen at the end too.
    `best_metric` is one that the evaluation returns, or "val_loss" or "val_<term>" of the validation loss, where less
    is better. `early_stopping` is the number of evaluations without gain after which training ends.
    `max_recoveries` is how often a run goes on after a loss that is not finite, each time with the learning rate times
    `recovery_lr_factor`; `split_on_oom`: a batch that needs too much memory is processed in smaller parts.
    """

    steps: int
    accumulate: int = 1
    clip_grad_norm: float | None = None
    precision: PrecisionName = "float32"
    channels_last: bool | Literal["auto"] = False
    compile: bool = False
    ema_decay: float | None = None
    ema_ramp: bool = True
    log_every: int = 20
    eval_every: int | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int = 1
    best_metric: str = "AP"
    early_stopping: int | None = None
    seed: int = 0
    across_processes: Literal["whole", "parts"] = "whole"
    max_recoveries: int = 0
    recovery_lr_factor: float = 1.0
    split_on_oom: bool = False
    async_checkpoints: bool = False

    def evaluates_at(self, step: int, steps_per_epoch: float) -> bool:
        """Whether an evaluation is due after `step` steps."""
        if step == 0 or step == self.steps:
            return step > 0
        if self.eval_every is not None:
            return step % self.eval_every == 0
        before, now = ((s / steps_per_epoch + 1e-9) // 1 for s in (step - 1, step))  # 1e-9: 3 * (1 / 3) is an epoch
        return now > before

    def saves_at(self, step: int, steps_per_epoch: float) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        every = self.checkpoint_every
        return self.evaluates_at(step, steps_per_epoch) if every is None else step % every == 0

    def logs_at(self, step: int) -> bool:
        """Whether a line of the log is due after `step` steps."""
        return step == 1 or step % self.log_every == 0 or step == self.steps

    def stops_early(self, progress: "Progress") -> bool:
        """Whether there were too many evaluations without gain to go on."""
        return self.early_stopping is not None and progress.evals_without_gain >= self.early_stopping


@dataclass
class Progress:
    """How far a run has come; part of its checkpoints."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    evaluated_step: int = 0
    best: float | None = None
    best_step: int = 0
    evals_without_gain: int = 0
    skipped_images: int = 0
    dropped_boxes: int = 0
    split_steps: int = 0  # that did not fit into the memory as a whole
    recovered: tuple[int, ...] = ()  # where batches given up for a loss not finite begin, in the stream of samples

    def judge(self, metrics: Metrics, best_metric: str) -> bool:
        """Take note of an evaluation after this step; returns whether it is the best so far.

        A metric that could not be computed is neither a gain nor a loss.
        Raises ValueError when `best_metric` is not among the metrics.
        """
        value = _metric(metrics, best_metric)
        self.evaluated_step = self.step
        if value is None:
            return False
        less_is_better = best_metric.startswith("val_loss")
        gained = self.best is None or (value < self.best if less_is_better else value > self.best)
        if gained:
            self.best, self.best_step, self.evals_without_gain = value, self.step, 0
        else:
            self.evals_without_gain += 1
        return gained


@dataclass(frozen=True)
class Summary:
    """How a run ended: `metrics` of the last evaluation, `best` value of the best metric and its step."""

    steps: int
    samples: int
    seconds: float
    metrics: Metrics
    best: float | None
    best_step: int
    stopped_early: bool
    skipped_images: int
    dropped_boxes: int
    last_checkpoint: Path
    best_checkpoint: Path | None


def summarize(progress: Progress, metrics: Metrics, stopped_early: bool, last: Path, best: Path) -> Summary:
    """The summary of a run that came as far as `progress`."""
    return Summary(
        steps=progress.step,
        samples=progress.samples,
        seconds=progress.seconds,
        metrics=metrics,
        best=progress.best,
        best_step=progress.best_step,
        stopped_early=stopped_early,
        skipped_images=progress.skipped_images,
        dropped_boxes=progress.dropped_boxes,
        last_checkpoint=last,
        best_checkpoint=best if best.exists() else None,
    )


def plain_metrics(metrics: Mapping[str, float | None], prefix: str = "") -> Metrics:
    """Metrics as plain floats; what is not finite could not be computed and is None."""
    return {
        prefix + name: float(value) if value is not None and math.isfinite(value) else None
        for name, value in metrics.items()
    }


def _metric(metrics: Metrics, name: str) -> float | None:
    if name in metrics:
        return metrics[name]
    near = difflib.get_close_matches(name, metrics, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"best_metric {name!r} is not among the metrics {', '.join(metrics) or '(none)'}{hint}")
