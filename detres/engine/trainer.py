"""The training loop, for classifier and detector alike."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from detres.engine.checkpoint import check_plain, load_checkpoint, load_model_state, require_same_classes
from detres.engine.distributed import all_succeed, interleave
from detres.engine.ema import WeightAverage
from detres.engine.interruption import Interrupted, Interruption
from detres.engine.left_out import count_left_out, describe_left_out
from detres.engine.loss_monitor import LossMonitor
from detres.engine.optimizer import load_optimizer_state, optimizer_state, set_learning_rate
from detres.engine.progress import Reporter, SilentReporter, describe_evaluation
from detres.engine.records import Metrics, Progress, Summary, TrainerSettings, TrainStream, plain_metrics
from detres.engine.run_directory import RunDirectory
from detres.engine.schedule import Schedule
from detres.engine.speed import SpeedMeter
from detres.engine.train_step import TrainStep
from detres.structures import Batch, BatchNote
from detres.structures.processes import ALONE, Processes


class Trainer:
    """Trains `model`: `model(images, targets)` returns named values; the sum of those named loss... is minimised.

    `header` goes into every checkpoint: kind, config, class_names. `evaluate(model)` returns metrics,
    `validation_loss(model)` losses; both get the averaged weights where there are any.
    Only tensors of the current step live on the device; nothing but logging waits for it.
    With several `processes` all run this loop, each on its share of the batches; `run` must write in the main one only.
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
        self.processes = processes
        self.step = TrainStep(model, optimizer, settings, device, processes=processes)
        self.model, self.device, self.precision = self.step.model, self.step.device, self.step.precision
        self.optimizer, self.schedule, self.loader, self.run_directory = optimizer, schedule, loader, run
        self.settings, self.header = settings, dict(header)
        check_plain(self.header, "header")  # now, not at the first checkpoint
        self.evaluate, self.validation_loss = evaluate, validation_loss
        self.reporter: Reporter = reporter if reporter is not None else SilentReporter()
        self.ema = (
            WeightAverage(self.model, settings.ema_decay, settings.ema_ramp) if settings.ema_decay is not None else None
        )
        self.progress = Progress()
        self.metrics: Metrics = {}
        self._monitor = LossMonitor(run.write_json, check_gradients=not self.precision.scaler.is_enabled())
        self._speed = SpeedMeter()
        self._new_best = False
        self._saved: Progress | None = None
        self._clock: Callable[[], float] = lambda: self.progress.seconds
        self._interruption = Interruption()

    def run(self) -> Summary:
        """Train to the last step, or until early stopping.

        Raises NonFiniteLoss when a loss or gradient becomes NaN or infinite, and Interrupted after Ctrl-C or SIGTERM,
        when last.pt is written.
        """
        progress = self.progress
        with self._session() as stream:
            self._evaluate_and_save_if_due()  # what an interruption may have cut short
            while not self._finished():
                started = time.perf_counter()
                step = progress.step + 1
                lr = self._set_learning_rate(progress.step)
                batches, notes = self._next_batches(stream)
                loaded = time.perf_counter()
                losses, grad_norm = self.step.gradients(step, batches)
                self._monitor.add(step, lr, notes, losses, grad_norm)
                if self.device.type == "cpu":  # elsewhere looking would stall the device: at the next log
                    self._monitor.check()
                self.step.update()
                if self.ema is not None:
                    self.ema.update(self.model, step)
                self._count(notes, time.perf_counter() - started, loaded - started)
                if step == 1 or step % self.settings.log_every == 0 or step == self.settings.steps:
                    self._log(lr)
                self._interruption.check(lambda noted: max(self.processes.gather(noted)))
                self._evaluate_and_save_if_due()
        for line in describe_left_out(progress):
            self.reporter.message(line)
        return self._summary()

    def resume(self) -> int:
        """Go on from last.pt of the run directory; returns its step, 0 when there is none yet.

        Raises CheckpointError or ValueError when that checkpoint is damaged or does not fit.
        """
        path = self.run_directory.last
        state = self.processes.from_main(self._read_last)
        if state is None:
            self.reporter.message(f"no checkpoint in {self.run_directory.path} yet: starting from step 0")
            return 0
        require_same_classes(state, self.header, path)
        load_model_state(self.model, state["model"], path)
        if self.ema is not None:
            # a run that begins to average only now starts from the weights
            averaged = state["ema"] if state["ema"] is not None else state["model"]
            load_model_state(self.ema.module, averaged, path)
        load_optimizer_state(self.optimizer, self.model, state["optimizer"])
        if self.precision.scaler.is_enabled() and state["scaler"]:
            self.precision.scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        self.metrics = state["metrics"]
        self._saved = replace(self.progress)
        self.reporter.message(f"resumed from {path} at step {self.progress.step}")
        return self.progress.step

    def _read_last(self) -> dict[str, Any] | None:
        path = self.run_directory.last
        return load_checkpoint(path, kind=self.header["kind"]) if path.exists() else None

    @contextmanager
    def _session(self) -> Iterator[Iterator[Batch]]:
        """Logs, signals and progress display around the loop; gives the stream of batches."""
        started, before = time.perf_counter(), self.progress.seconds
        run = self.run_directory
        run.write_environment(self.progress.step)
        run.start_log(self.progress.step)
        self._clock = lambda: before + time.perf_counter() - started
        self.model.train()
        with ExitStack() as stack:
            stack.callback(run.close)
            stack.enter_context(self._interruption)
            stack.enter_context(self.reporter)
            stream = self.loader.stream(self.progress.samples)
            stack.callback(getattr(stream, "close", lambda: None))
            try:
                yield stream
            except Interrupted as stopped:
                stopped.checkpoint = self._save()
                raise

    def _next_batches(self, stream: Iterator[Batch]) -> tuple[list[Batch], list[BatchNote]]:
        """All parts of a step, read before the first is used, so that a failing loader leaves a whole state to save.

        The notes are on the parts of all processes, in the order of the step's images.
        """
        try:
            batches, told = all_succeed(
                self.processes,
                lambda: list(islice(stream, self.settings.accumulate)),
                lambda read: [batch.note() for batch in read],
            )
        except Exception:
            self._save()
            raise
        assert len(batches) == self.settings.accumulate, "the loader's stream must not end"
        notes = interleave(told)
        count_left_out(notes, self.progress, self.reporter.message)
        return batches, notes

    def _set_learning_rate(self, step: int) -> float:
        """Set every group's rate for the update after `step` steps; returns that of the first group."""
        return set_learning_rate(self.optimizer, self.schedule(step))

    def _count(self, batches: list[BatchNote], seconds: float, loading_seconds: float) -> None:
        images = sum(len(batch) for batch in batches)
        self.progress.step += 1
        self.progress.samples += images
        self._speed.add(images, seconds, loading_seconds)
        self.reporter.advance(self.progress.step)

    def _log(self, lr: float) -> None:
        step = self.progress.step
        values: Metrics = {**self._monitor.take_means(), "lr": lr, "epoch": step / self.loader.steps_per_epoch}
        if step > 1:
            self.schedule.observe_step(self._monitor.latest)
        values |= (speed := self._speed.take())
        values |= self.precision.gradient_scale()
        left_out = {"skipped_images": self.progress.skipped_images, "dropped_boxes": self.progress.dropped_boxes}
        values |= {name: count for name, count in left_out.items() if count}
        if self.device.type == "cuda":
            values["memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.run_directory.log("train", step, values)
        eta = (self.settings.steps - step) * speed["seconds_per_step"]
        self.reporter.log(step, {**values, "eta_seconds": eta})

    def _evaluate_and_save_if_due(self) -> None:
        """After a step, and once on resuming, for what an interruption may have cut short."""
        progress, every = self.progress, self.settings.checkpoint_every
        point = self.settings.evaluates_at(progress.step, self.loader.steps_per_epoch)
        if point and progress.evaluated_step != progress.step and (self.evaluate or self.validation_loss):
            self._evaluate()
        due = self._finished() or (point if every is None else progress.step % every == 0)
        if progress.step > 0 and (due or self._new_best):
            self._save(numbered=due)

    def _evaluate(self) -> None:
        self._monitor.check()
        model = self.model if self.ema is None else self.ema.module
        metrics: Metrics = {}
        try:
            with self.reporter.paused(), self._interruption.at_once():
                if self.evaluate is not None:
                    metrics |= plain_metrics(self.evaluate(model))
                if self.validation_loss is not None:
                    metrics |= plain_metrics(self.validation_loss(model), prefix="val_")
            gained = self.progress.judge(metrics, self.settings.best_metric)
        except Exception:
            self._save()  # the training must not be lost with its evaluation
            raise
        self.model.train()
        self.metrics, self._new_best = metrics, gained
        self.run_directory.log("val", self.progress.step, metrics)
        self.reporter.message(describe_evaluation(self.progress.step, metrics, self.settings.best_metric, gained))
        if metrics[self.settings.best_metric] is not None and self.schedule.observe(gained):
            lr = self._set_learning_rate(self.progress.step)
            self.reporter.message(f"no gain: the learning rate falls to {lr:g}")

    def _save(self, numbered: bool = False) -> Path:
        """Write a checkpoint unless nothing has happened since the last one; never one with weights gone bad."""
        self._monitor.check()
        progress = self.progress
        if progress.step > 0 and progress != self._saved:
            progress.seconds = self._clock()
            number = progress.step if numbered else None
            keep = self.settings.keep_checkpoints
            self.run_directory.save(self._state(), is_best=self._new_best, number=number, keep=keep)
            self._saved, self._new_best = replace(progress), False
        return self.run_directory.last

    def _state(self) -> dict[str, Any]:
        return {
            **self.header,
            "model": dict(self.model.state_dict()),
            "ema": None if self.ema is None else dict(self.ema.module.state_dict()),
            "optimizer": optimizer_state(self.optimizer, self.model),
            "scaler": self.precision.scaler.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": asdict(self.progress),
            "metrics": self.metrics,
        }

    def _finished(self) -> bool:
        return self.progress.step >= self.settings.steps or self._stopped_early()

    def _stopped_early(self) -> bool:
        patience = self.settings.early_stopping
        return patience is not None and self.progress.evals_without_gain >= patience

    def _summary(self) -> Summary:
        progress, run = self.progress, self.run_directory
        return Summary(
            steps=progress.step,
            samples=progress.samples,
            seconds=progress.seconds,
            metrics=self.metrics,
            best=progress.best,
            best_step=progress.best_step,
            stopped_early=self._stopped_early() and progress.step < self.settings.steps,
            skipped_images=progress.skipped_images,
            dropped_boxes=progress.dropped_boxes,
            last_checkpoint=run.last,
            best_checkpoint=run.best if run.best.exists() else None,
        )
