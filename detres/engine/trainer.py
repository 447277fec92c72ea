"""The training loop, for classifier and detector alike."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from detres.engine.checkpoint import check_plain, require_same_classes
from detres.engine.checkpoint_writer import CheckpointWriter
from detres.engine.distributed import cut_short_together
from detres.engine.ema import WeightAverage
from detres.engine.feed import Feed
from detres.engine.interruption import Interrupted, Interruption
from detres.engine.left_out import count_left_out, count_split, counts_left_out, describe_left_out
from detres.engine.loss_monitor import LossMonitor, NonFiniteLoss
from detres.engine.optimizer import set_learning_rate
from detres.engine.out_of_memory import StepOutOfMemory
from detres.engine.progress import Reporter, SilentReporter, describe_evaluation
from detres.engine.records import Metrics, Progress, Summary, TrainerSettings, TrainStream, plain_metrics, summarize
from detres.engine.recovery import after_bad_batch
from detres.engine.run_directory import RunDirectory
from detres.engine.schedule import Schedule
from detres.engine.speed import SpeedMeter
from detres.engine.train_step import TrainStep
from detres.engine.training_state import TrainingState
from detres.structures import Batch, BatchNote
from detres.structures.processes import ALONE, Processes


class Trainer:
    """Trains `model`: `model(images, targets)` returns named values; the sum of those named loss... is minimised.

    `header` goes into every checkpoint: kind, config, class_names. `evaluate(model)` returns metrics,
    `validation_loss(model)` losses; both get the averaged weights where there are any.
    Only tensors of the current step live on the device; nothing but logging waits for it.
    Several `processes` all run this loop, each on its share of the batches; `run` writes in the main one only.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        loader: TrainStream,
        run: RunDirectory,
        settings: TrainerSettings,
        *,
        header: Mapping[str, Any],
        device: torch.device | str = "cpu",
        evaluate: Callable[[nn.Module], Mapping[str, float | None]] | None = None,
        validation_loss: Callable[[nn.Module], Mapping[str, float | None]] | None = None,
        reporter: Reporter | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.processes, self.step = processes, TrainStep(model, optimizer, settings, device, processes=processes)
        self.model, self.device, self.precision = self.step.model, self.step.device, self.step.precision
        self.optimizer, self.schedule, self.loader, self.run_directory = optimizer, schedule, loader, run
        self.settings, self.header = settings, dict(header)
        check_plain(self.header, "header")  # now, not at the first checkpoint
        self.evaluate, self.validation_loss = evaluate, validation_loss
        self.reporter: Reporter = reporter if reporter is not None else SilentReporter()
        decay, ramp = settings.ema_decay, settings.ema_ramp
        self.ema = None if decay is None else WeightAverage(self.model, decay, ramp)
        self.progress = Progress()
        self.metrics: Metrics = {}
        self._state = TrainingState(self.model, optimizer, self.precision.scaler, schedule, self.ema)
        self._feed = Feed(loader, settings.accumulate, processes)
        background = settings.async_checkpoints and processes.rank == 0  # the others write nothing
        self._writer = CheckpointWriter(run, settings.keep_checkpoints, self.reporter.message, in_background=background)
        self._monitor = LossMonitor(run.write_json, check_gradients=not self.precision.scaler.is_enabled())
        self._speed = SpeedMeter()
        self._new_best = False
        self._saved: Progress | None = None
        self._clock: Callable[[], float] = lambda: self.progress.seconds
        self._interruption = Interruption()

    def run(self) -> Summary:
        """Train to the last step, or until early stopping.

        Raises NonFiniteLoss when a loss or gradient becomes NaN or infinite (and settings.max_recoveries are used up),
        StepOutOfMemory, and Interrupted after Ctrl-C or SIGTERM, when last.pt is written.
        """
        with self._session():
            self._evaluate_and_save_if_due()  # what an interruption may have cut short
            while not self._finished():
                try:
                    self._train_step()
                    self._interruption.check(lambda noted: max(self.processes.gather(noted)))
                    self._evaluate_and_save_if_due()
                except NonFiniteLoss as error:
                    self._recover(error)
                except StepOutOfMemory as error:
                    if error.state_is_whole:
                        self._save(ending=True)
                    raise
        for line in describe_left_out(self.progress):
            self.reporter.message(line)
        stopped_early = self.settings.stops_early(self.progress) and self.progress.step < self.settings.steps
        return summarize(self.progress, self.metrics, stopped_early, self.run_directory.last, self.run_directory.best)

    def _train_step(self) -> None:
        """One batch, one update, and where it is time for one, a line in the log."""
        started = time.perf_counter()
        step = self.progress.step + 1
        lr = self._set_learning_rate(step - 1)
        batches, notes = self._next_batches()
        loaded = time.perf_counter()
        losses, grad_norm = self.step.gradients(step, batches)
        count_split(step, self.step.pieces, self.progress, self.reporter.message)
        self._monitor.add(step, lr, notes, losses, grad_norm, self.progress.samples)
        if self.device.type == "cpu":  # elsewhere looking would stall the device: at the next log
            self._monitor.check()
        self.step.update()
        if self.ema is not None:
            self.ema.update(self.model, step)
        self._count(notes, time.perf_counter() - started, loaded - started)
        if self.settings.logs_at(step):
            self._log(lr)

    def resume(self) -> int:
        """Go on from the newest whole checkpoint of the run directory; returns its step, 0 when there is none yet.

        Raises CheckpointError or ValueError when there are checkpoints, but none is whole and fits.
        """
        path = self.run_directory.last
        state = self.processes.from_main(lambda: self.run_directory.read_last(self.header["kind"]))
        if state is None:
            self.reporter.message(f"no checkpoint in {self.run_directory.path} yet: starting from step 0")
            return 0
        require_same_classes(state, self.header, path)
        self._go_back_to(state, path)
        self._saved = replace(self.progress)
        self.reporter.message(f"resumed from {path} at step {self.progress.step}")
        return self.progress.step

    def _go_back_to(self, state: Mapping[str, Any], path: Path) -> None:
        self._state.restore(state, path)
        self._monitor.restore(state.get("unlogged", ()))
        self.progress = Progress(**state["progress"])
        self.metrics = state["metrics"]

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Logs, signals, progress display, the stream of batches and the writing of checkpoints around the loop."""
        started, before = time.perf_counter(), self.progress.seconds
        run = self.run_directory
        run.write_environment(self.progress.step)
        run.start_log(self.progress.step, self.progress.evaluated_step)
        self._clock = lambda: before + time.perf_counter() - started
        self.model.train()
        with ExitStack() as stack:
            stack.callback(run.close)
            stack.enter_context(self._interruption)
            stack.enter_context(self.reporter)
            stack.callback(self._feed.close)
            stack.callback(self._writer.wait)
            self._feed.open(self.progress.samples)
            self._prepare_checkpoints()
            try:
                yield
            except Interrupted as stopped:
                stopped.checkpoint = self._save(ending=True)
                raise

    def _prepare_checkpoints(self) -> None:
        """Make up for what a killed process left undone; and where recoveries are allowed, have one to go back to."""
        progress = self.progress
        needed = self.settings.max_recoveries > 0 and not self.run_directory.numbered()
        if self._saved == progress and progress.step > 0:
            is_best = progress.best_step == progress.step
            number = progress.step if self._is_numbered(is_best) or needed else None
            self.run_directory.share_last(is_best=is_best, number=number, keep=self.settings.keep_checkpoints)
        elif needed:
            self._writer.write(self._content(), number=progress.step)

    def _next_batches(self) -> tuple[list[Batch], list[BatchNote]]:
        """All parts of a step, before the first is used: a failing loader, or a signal, leaves a whole state."""
        try:
            with nullcontext() if self.processes.world_size > 1 else self._interruption.at_once():  # none leaves alone
                batches, notes = self._feed.take(self.progress)
        except Exception as error:
            if isinstance(error, RuntimeError):  # a dead worker: who killed it may have signalled us as well
                self._interruption.check_soon()
            self._save(ending=True)
            raise
        count_left_out(notes, self.progress, self.reporter.message)
        return batches, notes

    def _recover(self, error: NonFiniteLoss) -> None:
        """Go back to the last good checkpoint, from where the learning rate is lower and the bad batch is left out.

        Raises `error` when settings.max_recoveries are used up. The newest numbered checkpoint is taken, because
        those are of the same steps however often the run was interrupted.
        """
        self._writer.wait()
        checkpoints = self.run_directory.numbered()
        found = self.processes.from_main(lambda: after_bad_batch(error, self.progress, self.settings, checkpoints))
        self._go_back_to(found.state, found.path)
        self.progress.recovered = found.recovered
        self.reporter.message(found.describe(self.settings))
        self.run_directory.start_log(self.progress.step, self.progress.evaluated_step)
        self._feed.open(self.progress.samples)
        self._save()

    def _set_learning_rate(self, step: int) -> float:
        """Set every group's rate for the update after `step` steps; returns that of the first group."""
        lowered = self.settings.recovery_lr_factor ** len(self.progress.recovered)
        return set_learning_rate(self.optimizer, self.schedule(step) * lowered)

    def _count(self, batches: list[BatchNote], seconds: float, loading_seconds: float) -> None:
        self.progress.step += 1
        self.progress.samples += (images := sum(map(len, batches)))
        self._speed.add(images, seconds, loading_seconds)
        self.reporter.advance(self.progress.step)

    def _log(self, lr: float) -> None:
        step = self.progress.step
        values: Metrics = {**self._monitor.take_means(), "lr": lr, "epoch": step / self.loader.steps_per_epoch}
        if step > 1:
            self.schedule.observe_step(self._monitor.latest)
        values |= (speed := self._speed.take())
        values |= self.precision.gradient_scale()
        values |= counts_left_out(self.progress)
        if self.device.type == "cuda":
            values["memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.run_directory.log("train", step, values)
        self.reporter.log(step, {**values, "eta_seconds": (self.settings.steps - step) * speed["seconds_per_step"]})

    def _evaluate_and_save_if_due(self) -> None:
        """After a step, and once on resuming, for what an interruption may have cut short."""
        step, settings = self.progress.step, self.settings
        point = settings.evaluates_at(step, self.loader.steps_per_epoch)
        if point and self.progress.evaluated_step != step and (self.evaluate or self.validation_loss):
            self._evaluate()
        numbered = self._is_numbered(self._new_best)
        again = settings.logs_at(step) and self._writer.failed
        if step > 0 and (numbered or self._new_best or again):
            self._save(numbered=numbered, ending=self._finished())

    def _is_numbered(self, is_best: bool) -> bool:
        """Whether a checkpoint now is one of those kept by step; a recovery must never go back behind the best one."""
        due = self.settings.saves_at(self.progress.step, self.loader.steps_per_epoch)
        return due or self._finished() or (is_best and self.settings.max_recoveries > 0)

    def _evaluate(self) -> None:
        self._monitor.check()
        self._writer.wait()  # the evaluation's workers are forked: not while a thread is at work
        model = self.model if self.ema is None else self.ema.module
        metrics: Metrics = {}
        try:
            with self.reporter.paused(), cut_short_together(self.processes, self._interruption):
                if self.evaluate is not None:
                    metrics |= plain_metrics(self.evaluate(model))
                if self.validation_loss is not None:
                    metrics |= plain_metrics(self.validation_loss(model), prefix="val_")
            gained = self.progress.judge(metrics, self.settings.best_metric)
        except Exception:
            self._save(ending=True)  # the training must not be lost with its evaluation
            raise
        self.model.train()
        self.metrics, self._new_best = metrics, gained
        self.run_directory.log("val", self.progress.step, metrics)
        self.reporter.message(describe_evaluation(self.progress.step, metrics, self.settings.best_metric, gained))
        if metrics[self.settings.best_metric] is not None and self.schedule.observe(gained):
            lr = self._set_learning_rate(self.progress.step)
            self.reporter.message(f"no gain: the learning rate falls to {lr:g}")

    def _save(self, *, numbered: bool = False, ending: bool = False) -> Path:
        """Write a checkpoint unless nothing has happened since the last one; never one with weights gone bad.

        At the `ending` of a run it is on the disk when this returns; before that a failure is only told of.
        """
        self._monitor.check()
        progress = self.progress
        if ending:
            self._writer.wait()
        if (progress.step > 0 or progress.recovered) and (progress != self._saved or self._writer.failed):
            progress.seconds = self._clock()
            write = self._writer.write_now if ending else self._writer.write
            write(self._content(), is_best=self._new_best, number=progress.step if numbered else None)
            self._saved, self._new_best = replace(progress), False
        return self.run_directory.last

    def _content(self) -> dict[str, Any]:
        return {
            **self.header,
            **self._state.gather(),
            "progress": asdict(self.progress),
            "metrics": self.metrics,
            "unlogged": self._monitor.unlogged(),
        }

    def _finished(self) -> bool:
        return self.progress.step >= self.settings.steps or self.settings.stops_early(self.progress)
