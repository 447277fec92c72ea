"""The training job, for detectors and classifiers: from a configuration to a run directory and its metrics."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detres import wiring
from detres.api import choose_device
from detres.config import Config, LoadedConfig, config_to_dict, format_resolved
from detres.engine.checkpoint import DamagedCheckpoint
from detres.engine.curves import draw_curves
from detres.engine.distributed import join_processes
from detres.engine.environment import begun_by_this_launch
from detres.engine.follower import FollowerDirectory
from detres.engine.progress import build_reporter
from detres.engine.records import Summary
from detres.engine.run_directory import RunDirectory
from detres.engine.schedule import build_schedule
from detres.engine.trainer import Trainer
from detres.engine.validation import validation_losses
from detres.evaluation.inference import share_of
from detres.jobs.batch_size import with_batch_size
from detres.jobs.evaluate import Evaluation, Evaluator, write_evaluation
from detres.jobs.preparation import describe_set, load_start, open_train_set, optimizer_of, scale, trainer_settings
from detres.structures.processes import Processes


@dataclass(frozen=True)
class TrainingResult:
    """How the run ended, and the evaluation of its best weights with the files that tell of it.

    weights  the checkpoint that was evaluated: last.pt where there is no best.pt, or no whole one

    Of several processes all have the same, but for the files: the main one wrote them.
    """

    summary: Summary
    weights: Path
    evaluation: Evaluation
    written: list[Path]


def output_folder(loaded: LoadedConfig) -> Path:
    """The run directory of `output`, with {name} filled in."""
    return Path(loaded.config.output.replace("{name}", loaded.name))


def train(loaded: LoadedConfig, *, resume: bool = False) -> TrainingResult:
    """Train as the configuration says, evaluate the best weights and write everything into the run directory.

    Started by torchrun, all its processes train together. When torchrun starts them again, the run that it began goes
    on from its last checkpoint, as with `resume`.
    Raises, before anything is trained, what is wrong with output, data or weights; NonFiniteLoss and Interrupted as
    Trainer.run does.
    """
    with join_processes(choose_device(loaded.config.device)) as (processes, device):
        return _train(loaded, resume, processes, device)


def _train(loaded: LoadedConfig, resume: bool, processes: Processes, device: torch.device) -> TrainingResult:
    run, resume = _open_run(output_folder(loaded), resume, processes)
    try:
        trainer, evaluator, loaded = _prepare(loaded, run, resume, processes, device)
    except BaseException:
        run.discard_if_empty()
        raise
    run.write_config(format_resolved(loaded))
    summary = trainer.run()
    best, path = processes.from_main(lambda: _best_network(summary))
    evaluation = evaluator(best.to(device))
    written = processes.from_main(lambda: _write(evaluation, evaluator, run))
    return TrainingResult(summary, path, evaluation, written)


def _best_network(summary: Summary) -> tuple[nn.Module, Path]:
    """The network of the best weights, or else of the last ones, and their file; a long run must not end without."""
    best, last = summary.best_checkpoint, summary.last_checkpoint
    if best is not None:
        try:
            return wiring.model_from_checkpoint(best, trust_code=True)[0], best
        except (DamagedCheckpoint, OSError) as error:
            warnings.warn(f"{error}. The evaluation is of {last.name}, step {summary.steps}", stacklevel=2)
    elif summary.best is not None:
        text = f"{last.parent} has no best.pt, of step {summary.best_step}. The evaluation is of {last.name}"
        warnings.warn(f"{text}, step {summary.steps}", stacklevel=2)
    return wiring.model_from_checkpoint(last, trust_code=True)[0], last


def _open_run(folder: Path, resume: bool, processes: Processes) -> tuple[RunDirectory, bool]:
    """The run directory, and whether its run goes on: also when torchrun, which began it, starts its processes again.

    Only that torchrun's own run: a folder that the first start refused stays refused.
    """
    opened: list[RunDirectory] = []

    def open_here() -> bool:
        goes_on = resume or begun_by_this_launch(folder)
        opened.append(RunDirectory(folder, resume=goes_on))
        return goes_on

    goes_on = processes.from_main(open_here)
    return (opened[0] if opened else FollowerDirectory(folder)), goes_on


def _write(evaluation: Evaluation, evaluator: Evaluator, run: RunDirectory) -> list[Path]:
    written = write_evaluation(evaluation, evaluator, run.path / "eval", "val")
    return [draw_curves(run.path), *written]


def _prepare(
    loaded: LoadedConfig, run: RunDirectory, resume: bool, processes: Processes, device: torch.device
) -> tuple[Trainer, Evaluator, LoadedConfig]:
    """Everything that training needs, with initial or resumed weights; what is wrong with the input shows here.

    The configuration that comes back has a number where it said train.batch_size: auto.
    """
    train_set = open_train_set(loaded.config)
    val_set = wiring.build_eval_dataset(loaded.config, train_set.class_names)
    describe_set("val", val_set)
    continues = processes.from_main(lambda: resume and run.restore_last())
    begun = run.last if continues else None
    loaded = processes.from_main(lambda: with_batch_size(loaded, train_set, device, processes, checkpoint=begun))
    config = loaded.config
    model = wiring.build_model(config, len(train_set.class_names))
    if not continues:
        model.load_state_dict(processes.from_main(lambda: _initial_state(model, config, train_set)))
    trainer, evaluator = _build_trainer(config, run, model, train_set, val_set, device, processes)
    if resume:
        trainer.resume()
    return trainer, evaluator, loaded


def _initial_state(model: nn.Module, config: Config, train_set: wiring.AnyDataset) -> dict[str, Any]:
    load_start(model, config, train_set)
    return dict(model.state_dict())


def _build_trainer(
    config: Config,
    run: RunDirectory,
    model: nn.Module,
    train_set: wiring.AnyDataset,
    val_set: wiring.AnyDataset,
    device: torch.device,
    processes: Processes,
) -> tuple[Trainer, Evaluator]:
    settings = config.train
    if settings.on_oom == "split" and processes.world_size > 1:
        raise ValueError("train.on_oom: split is for one process (the others would wait for it); set train.accumulate")
    loader = wiring.build_train_loader(config, train_set, pin_memory=device.type == "cuda", processes=processes)
    scaled = scale(config, loader.steps_per_epoch)
    evaluator = Evaluator(config, val_set, device, processes)
    reporter = build_reporter(scaled.steps)
    reporter.message(scaled.describe())
    if processes.world_size > 1:
        share = f"{settings.accumulate} x {settings.images_per_step // settings.accumulate // processes.world_size}"
        text = f"{settings.images_per_step} images a step on {processes.world_size} processes, {share} on each"
        reporter.message(text)
    schedule = {**settings.schedule.model_dump(), "milestones": scaled.milestones}
    trainer = Trainer(
        model.to(device),
        optimizer_of(config, model, scaled.lr),
        build_schedule(
            steps=scaled.steps,
            warmup_steps=scaled.warmup_steps,
            warmup_factor=settings.warmup.factor,
            warmup_shape=settings.warmup.shape,
            warmup_until_error=settings.warmup.until_error,
            **schedule,
        ),
        loader,
        run,
        trainer_settings(config, scaled.steps),
        header={
            "kind": config.kind,
            "config": config_to_dict(config),
            "class_names": list(train_set.class_names),
        },
        device=device,
        evaluate=lambda candidate: evaluator(candidate).metrics.metrics,
        validation_loss=_validation_loss(config, evaluator) if settings.val_loss else None,
        reporter=reporter,
        processes=processes,
    )
    return trainer, evaluator


def _validation_loss(config: Config, evaluator: Evaluator) -> Callable[[nn.Module], Mapping[str, Any]]:
    def losses(model: nn.Module) -> Mapping[str, Any]:
        own, _ = share_of(evaluator.loader, evaluator.processes)
        options: dict[str, Any] = {"device": evaluator.device, "precision": config.eval.precision}
        return validation_losses(model, own, processes=evaluator.processes, **options)

    return losses
