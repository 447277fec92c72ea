"""The training job, for detectors and classifiers: from a configuration to a run directory and its metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detres import wiring
from detres.api import choose_device
from detres.config import Config, LoadedConfig, config_to_dict, format_resolved
from detres.engine.curves import draw_curves
from detres.engine.progress import build_reporter
from detres.engine.records import Summary
from detres.engine.run_directory import RunDirectory
from detres.engine.schedule import build_schedule
from detres.engine.trainer import Trainer
from detres.engine.validation import validation_losses
from detres.jobs.batch_size import with_batch_size
from detres.jobs.evaluate import Evaluation, Evaluator, write_evaluation
from detres.jobs.preparation import describe_set, load_start, open_train_set, optimizer_of, scale, trainer_settings


@dataclass(frozen=True)
class TrainingResult:
    """How the run ended, and the evaluation of its best weights with the files that tell of it."""

    summary: Summary
    evaluation: Evaluation
    written: list[Path]


def output_folder(loaded: LoadedConfig) -> Path:
    """The run directory of `output`, with {name} filled in."""
    return Path(loaded.config.output.replace("{name}", loaded.name))


def train(loaded: LoadedConfig, *, resume: bool = False) -> TrainingResult:
    """Train as the configuration says, evaluate the best weights and write everything into the run directory.

    Raises, before anything is trained, what is wrong with output, data or weights; NonFiniteLoss and Interrupted as
    Trainer.run does.
    """
    run = RunDirectory(output_folder(loaded), resume=resume)
    try:
        trainer, evaluator, loaded = _prepare(loaded, run, resume)
    except BaseException:
        run.discard_if_empty()
        raise
    run.write_config(format_resolved(loaded))
    summary = trainer.run()
    best, _, _ = wiring.model_from_checkpoint(summary.best_checkpoint or summary.last_checkpoint, trust_code=True)
    evaluation = evaluator(best.to(evaluator.device))
    written = write_evaluation(evaluation, evaluator, run.path / "eval", "val")
    return TrainingResult(summary, evaluation, [draw_curves(run.path), *written])


def _prepare(loaded: LoadedConfig, run: RunDirectory, resume: bool) -> tuple[Trainer, Evaluator, LoadedConfig]:
    """Everything that training needs, with initial or resumed weights; what is wrong with the input shows here.

    The configuration that comes back has a number where it said train.batch_size: auto.
    """
    device = choose_device(loaded.config.device)
    train_set = open_train_set(loaded.config)
    val_set = wiring.build_eval_dataset(loaded.config, train_set.class_names)
    describe_set("val", val_set)
    continues = resume and run.restore_last()
    loaded = with_batch_size(loaded, train_set, device, checkpoint=run.last if continues else None)
    config = loaded.config
    model = wiring.build_model(config, len(train_set.class_names))
    if not continues:
        load_start(model, config, train_set)
    trainer, evaluator = _build_trainer(config, run, model, train_set, val_set, device)
    if resume:
        trainer.resume()
    return trainer, evaluator, loaded


def _build_trainer(
    config: Config,
    run: RunDirectory,
    model: nn.Module,
    train_set: wiring.AnyDataset,
    val_set: wiring.AnyDataset,
    device: torch.device,
) -> tuple[Trainer, Evaluator]:
    settings = config.train
    loader = wiring.build_train_loader(config, train_set, pin_memory=device.type == "cuda")
    scaled = scale(config, loader.steps_per_epoch)
    evaluator = Evaluator(config, val_set, device)
    reporter = build_reporter(scaled.steps)
    reporter.message(scaled.describe())
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
    )
    return trainer, evaluator


def _validation_loss(config: Config, evaluator: Evaluator) -> Callable[[nn.Module], Mapping[str, Any]]:
    def losses(model: nn.Module) -> Mapping[str, Any]:
        return validation_losses(model, evaluator.loader, device=evaluator.device, precision=config.eval.precision)

    return losses
