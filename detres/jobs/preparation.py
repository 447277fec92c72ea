"""From a configuration to what training takes: data, network with its initial weights, scaled schedule, optimizer."""

from typing import Any, cast

from torch import nn
from torch.optim import Optimizer

from detres import wiring
from detres.config import Config
from detres.config.train import RecoverOnNonFinite
from detres.data.annotations import DatasetError, DetectionDataset, drop_messages
from detres.data.mean_image import mean_image
from detres.engine.optimizer import build_optimizer
from detres.engine.progress import build_reporter
from detres.engine.records import TrainerSettings
from detres.engine.schedule import ScaledSchedule, scale_to_batch
from detres.jobs.evaluate import show


def open_train_set(config: Config) -> wiring.AnyDataset:
    """The training set, described in a line; a misspelt transform shows before the data are read."""
    for training in (True, False):
        wiring.build_transforms(config, training)
    dataset = wiring.build_train_dataset(config)
    describe_set("train", dataset)
    _require_objects(dataset)
    if line := wiring.describe_image_cache(config, dataset):
        show(f"  {line}")
    return dataset


def _require_objects(dataset: wiring.AnyDataset) -> None:
    """Raise DatasetError for a detection set without a single object: an export that went wrong, nothing to learn."""
    annotations = getattr(dataset, "annotations", None)
    if annotations is not None and not any(len(annotations(index)) for index in range(len(dataset))):
        raise DatasetError(
            f"train: none of {len(dataset)} images has an object; expected annotations to learn from: see whether they "
            "were exported, and whether their image ids and class names are those of data.train"
        )


def describe_set(name: str, dataset: wiring.AnyDataset) -> None:
    """One line on a data set, and one for every kind of annotation that was left out."""
    show(f"{name}: {len(dataset)} images, {len(dataset.class_names)} classes")
    for message in drop_messages(cast(DetectionDataset, dataset)) if hasattr(dataset, "drop_report") else []:
        show(f"  {message}")


def load_start(model: Any, config: Config, train_set: wiring.AnyDataset) -> None:
    """Give the model its initial weights and, where it subtracts one that they lack, the mean image."""
    reports = wiring.load_initial_weights(model, config, train_set.class_names)
    for report in reports:
        show(report.table())
    has_mean_image = any("pixels.mean_image" in report.keys("loaded") for report in reports)
    if config.model.pixels.per_pixel_mean is not None and not has_mean_image:
        _take_mean_image(model, config, train_set, config.model.pixels.per_pixel_mean)


def scale(config: Config, steps_per_epoch: float) -> ScaledSchedule:
    """Learning rate and lengths of the configuration, for its batch."""
    settings = config.train
    return scale_to_batch(
        lr=settings.optimizer.lr,
        warmup_steps=settings.warmup.steps,
        actual=settings.images_per_step,
        reference=settings.reference_batch_size,
        rule=settings.lr_scaling,
        steps=settings.steps,
        epochs=settings.epochs,
        steps_per_epoch=steps_per_epoch,
        milestones=getattr(settings.schedule, "milestones", ()),
    )


def optimizer_of(config: Config, model: nn.Module, lr: float) -> Optimizer:
    """The configured optimizer and its groups, with `lr` in place of the configured rate."""
    return build_optimizer(model, **{**config.train.optimizer.model_dump(), "lr": lr})


def trainer_settings(config: Config, steps: int) -> TrainerSettings:
    """What the Trainer and its steps are told, for a run of `steps` steps."""
    settings = config.train
    recovery = settings.on_nonfinite if isinstance(settings.on_nonfinite, RecoverOnNonFinite) else None
    return TrainerSettings(
        steps=steps,
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
        across_processes=settings.across_processes,
        max_recoveries=0 if recovery is None else recovery.limit,
        recovery_lr_factor=1.0 if recovery is None else recovery.lr_factor,
        split_on_oom=settings.on_oom == "split",
        async_checkpoints=settings.async_checkpoints,
    )


def _take_mean_image(model: Any, config: Config, train_set: wiring.AnyDataset, side: int) -> None:
    """Give the model the mean of the training images, transformed as for evaluation."""
    show(f"model.pixels.per_pixel_mean: taking the mean of {len(train_set)} training images")
    with build_reporter(len(train_set)) as reporter:
        model.pixels.set_mean_image(mean_image(wiring.build_eval_loader(config, train_set), side, reporter.advance))
