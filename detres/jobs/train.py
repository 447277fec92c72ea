"""The training job, for detectors and classifiers: from a configuration to a run directory and its metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from detres import wiring
from detres.api import choose_device
from detres.config import Config, LoadedConfig, config_to_dict, format_resolved
from detres.data.annotations import DetectionDataset, drop_messages
from detres.data.mean_image import mean_image
from detres.engine.curves import draw_curves
from detres.engine.optimizer import build_optimizer
from detres.engine.progress import build_reporter
from detres.engine.records import Summary, TrainerSettings
from detres.engine.run_directory import RunDirectory
from detres.engine.schedule import ScaledSchedule, build_schedule, scale_to_batch
from detres.engine.trainer import Trainer
from detres.engine.validation import validation_losses
from detres.jobs.evaluate import Evaluation, Evaluator, show, write_evaluation


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
        trainer, evaluator = _prepare(loaded, run, resume)
    except BaseException:
        run.discard_if_empty()
        raise
    run.write_config(format_resolved(loaded))
    summary = trainer.run()
    best, _, _ = wiring.model_from_checkpoint(summary.best_checkpoint or summary.last_checkpoint, trust_code=True)
    evaluation = evaluator(best.to(evaluator.device))
    written = write_evaluation(evaluation, evaluator, run.path / "eval", "val")
    return TrainingResult(summary, evaluation, [draw_curves(run.path), *written])


def _prepare(loaded: LoadedConfig, run: RunDirectory, resume: bool) -> tuple[Trainer, Evaluator]:
    """Everything that training needs, with initial or resumed weights; what is wrong with the input shows here."""
    config = loaded.config
    device = choose_device(config.device)
    for training in (True, False):
        wiring.build_transforms(config, training)  # a misspelt transform shows before the data are read
    train_set = wiring.build_train_dataset(config)
    val_set = wiring.build_eval_dataset(config, train_set.class_names)
    for name, dataset in (("train", train_set), ("val", val_set)):
        _describe(name, dataset)
    model = wiring.build_model(config, len(train_set.class_names))
    if not (resume and run.last.exists()):
        reports = wiring.load_initial_weights(model, config, train_set.class_names)
        for report in reports:
            show(report.table())
        has_mean_image = any("pixels.mean_image" in report.keys("loaded") for report in reports)
        if config.model.pixels.per_pixel_mean is not None and not has_mean_image:
            _take_mean_image(model, config, train_set, config.model.pixels.per_pixel_mean)
    trainer, evaluator = _build_trainer(config, run, model, train_set, val_set, device)
    if resume:
        trainer.resume()
    return trainer, evaluator


def _take_mean_image(model: Any, config: Config, train_set: wiring.AnyDataset, side: int) -> None:
    """Give the model the mean of the training images, transformed as for evaluation."""
    show(f"model.pixels.per_pixel_mean: taking the mean of {len(train_set)} training images")
    with build_reporter(len(train_set)) as reporter:
        model.pixels.set_mean_image(mean_image(wiring.build_eval_loader(config, train_set), side, reporter.advance))


def _describe(name: str, dataset: wiring.AnyDataset) -> None:
    """One line on a data set, and one for every kind of annotation that was left out."""
    show(f"{name}: {len(dataset)} images, {len(dataset.class_names)} classes")
    for message in drop_messages(cast(DetectionDataset, dataset)) if hasattr(dataset, "drop_report") else []:
        show(f"  {message}")


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
    scaled = _scale(config, loader.steps_per_epoch)
    evaluator = Evaluator(config, val_set, device)
    reporter = build_reporter(scaled.steps)
    reporter.message(scaled.describe())
    optimizer = {**settings.optimizer.model_dump(), "lr": scaled.lr}
    schedule = {**settings.schedule.model_dump(), "milestones": scaled.milestones}
    trainer = Trainer(
        model.to(device),
        build_optimizer(model, **optimizer),
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
        _trainer_settings(config, scaled),
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


def _scale(config: Config, steps_per_epoch: float) -> ScaledSchedule:
    settings = config.train
    return scale_to_batch(
        lr=settings.optimizer.lr,
        warmup_steps=settings.warmup.steps,
        actual=settings.batch_size,
        reference=settings.reference_batch_size,
        rule=settings.lr_scaling,
        steps=settings.steps,
        epochs=settings.epochs,
        steps_per_epoch=steps_per_epoch,
        milestones=getattr(settings.schedule, "milestones", ()),
    )


def _trainer_settings(config: Config, scaled: ScaledSchedule) -> TrainerSettings:
    settings = config.train
    return TrainerSettings(
        steps=scaled.steps,
        accumulate=settings.accumulate,
        clip_grad_norm=settings.clip_grad_norm,
        precision=settings.precision,
        channels_last=settings.channels_last,
        compile=settings.compile,
        ema_decay=None if settings.ema is None else settings.ema.decay,
        ema_ramp=settings.ema is None or settings.ema.ramp,
        log_every=settings.log_every,
        eval_every=settings.eval_every,
        checkpoint_every=settings.checkpoint_every,
        keep_checkpoints=settings.keep_checkpoints,
        best_metric=config.best_metric,
        early_stopping=None if settings.early_stopping is None else settings.early_stopping.patience,
        seed=config.seed,
    )


def _validation_loss(config: Config, evaluator: Evaluator) -> Callable[[nn.Module], Mapping[str, Any]]:
    def losses(model: nn.Module) -> Mapping[str, Any]:
        return validation_losses(model, evaluator.loader, device=evaluator.device, precision=config.eval.precision)

    return losses
