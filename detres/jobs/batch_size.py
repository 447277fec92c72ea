"""`train.batch_size: auto`: the reference batch, in as few parts as fit into the memory of this machine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from detres import wiring
from detres.config import Config, LoadedConfig, config_from_dict, config_to_dict
from detres.config.model import ClassifierSettings
from detres.data.annotations import DetectionDataset
from detres.data.image_io import ImageError
from detres.data.largest import full_batch, largest_size_hw
from detres.data.samples import ClassificationDataset
from detres.engine.batch_size import DoesNotFit, largest_part
from detres.engine.checkpoint import load_checkpoint
from detres.engine.ema import WeightAverage
from detres.engine.memory import Step, fits_on_gpu, fits_on_host, free_host_memory
from detres.engine.train_step import TrainStep
from detres.jobs.evaluate import show
from detres.jobs.preparation import optimizer_of, trainer_settings
from detres.structures import Batch
from detres.structures.processes import ALONE, Processes

_OPENED = 64  # images of a classification set, whose sizes are written nowhere else
_SETTINGS = ("train.batch_size", "train.accumulate")
Fits = Callable[[int], bool]


def with_batch_size(
    loaded: LoadedConfig,
    train_set: wiring.AnyDataset,
    device: torch.device,
    processes: Processes = ALONE,
    *,
    checkpoint: Path | None = None,
    fits: Fits | None = None,
) -> LoadedConfig:
    """`loaded` with numbers in place of batch_size auto; without auto, `loaded` itself.

    The numbers of `checkpoint`, with which a run began, are kept as long as they make the same reference batch.
    `fits` says whether a part of so many images fits; by default memory is asked.
    Raises ValueError when not even one image fits, and when several processes would have to try what fits: they would
    stand in each other's way.
    """
    config = loaded.config
    reference = config.train.reference_batch_size
    if config.train.batch_size != "auto":
        return loaded
    assert reference is not None, "the schema asks for it beside auto"
    accumulate = None if checkpoint is None else _accumulate_of(checkpoint, reference)
    why = "as in the run so far"
    if accumulate is None:
        if processes.world_size > 1:
            raise ValueError(
                f"train.batch_size: auto tries what fits in one process only, and there are {processes.world_size}; "
                f"set train.batch_size={reference}, with train.accumulate=2, 4, ... if its shares need too much memory"
            )
        size_hw = _largest_size_hw(config, train_set)
        show(f"train.batch_size: auto: trying images of {size_hw[0]}x{size_hw[1]} on {device}")
        part = _largest_part(config, fits or _memory(config, train_set, size_hw, device), size_hw, device)
        accumulate = reference // part
        why = "as few parts as memory allows"
    show(
        f"train.batch_size: auto: {reference} images per step = {accumulate} x {reference // accumulate} "
        f"(train.accumulate={accumulate}), {why}"
    )
    found = config_to_dict(config)
    found["train"] |= {"batch_size": reference, "accumulate": accumulate}
    origins = {**loaded.origins, **dict.fromkeys(_SETTINGS, "auto")}
    return replace(loaded, config=config_from_dict(found, loaded.name), origins=origins)


def _accumulate_of(checkpoint: Path, reference: int) -> int | None:
    """In how many parts a run processed its batches; None when they were no batches of `reference`."""
    train = load_checkpoint(checkpoint)["config"]["train"]
    return cast(int, train["accumulate"]) if train["batch_size"] == reference else None


def _largest_part(config: Config, fits: Fits, size_hw: tuple[int, int], device: torch.device) -> int:
    reference = config.train.reference_batch_size
    assert reference is not None
    try:
        return largest_part(reference, fits)
    except DoesNotFit as error:
        raise ValueError(
            f"train.batch_size: auto: {error} of {device}, at {size_hw[0]}x{size_hw[1]} (the largest that "
            "data.train_transforms make); make images smaller, or set train.precision=bfloat16 or "
            "model.backbone.checkpoint_activations=true"
        ) from error


def _largest_size_hw(config: Config, train_set: wiring.AnyDataset) -> tuple[int, int]:
    """Of the training images after their transforms, without the padding that the model asks for."""
    if isinstance(config.model, ClassifierSettings):
        sizes = _opened_sizes(cast(ClassificationDataset, train_set))
    else:
        sizes = np.array([cast(DetectionDataset, train_set).size_hw(i) for i in range(len(train_set))])
    return largest_size_hw(sizes.reshape(-1, 2), wiring.build_transforms(config, training=True))


def _opened_sizes(dataset: ClassificationDataset) -> np.ndarray:
    """The sizes of some images, evenly spread over the set."""
    sizes = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, _OPENED).astype(int)):
        try:
            sizes.append(dataset.read(int(index)).shape[:2])
        except ImageError:  # data.on_bad_image decides about it when it is its turn
            continue
    return np.array(sizes)


def _memory(config: Config, train_set: wiring.AnyDataset, size_hw: tuple[int, int], device: torch.device) -> Fits:
    """Asks the device's memory by real steps, with a network of their own."""
    num_classes = len(train_set.class_names)
    num_objects = None
    if not isinstance(config.model, ClassifierSettings):
        detection = cast(DetectionDataset, train_set)
        num_objects = max(len(detection.annotations(i)) for i in range(len(detection)))

    def batch(images: int) -> Batch:
        return full_batch(images, size_hw, config.model.pixels.size_divisibility, num_classes, num_objects)

    step = _step(config, num_classes, batch, device)
    if device.type == "cuda":
        return fits_on_gpu(step, device)
    return fits_on_host(step, free_host_memory())


def _step(config: Config, num_classes: int, batch: Callable[[int], Batch], device: torch.device) -> Step:
    model = wiring.build_model(config, num_classes).train()
    # compiled, it takes no more; and it is to fit as it is
    settings = replace(trainer_settings(config, steps=1), compile=False, split_on_oom=False)
    step = TrainStep(model.to(device), optimizer_of(config, model, config.train.optimizer.lr), settings, device)
    average = None if settings.ema_decay is None else WeightAverage(model, settings.ema_decay)

    def train(images: int, parts: int) -> None:
        step.gradients(1, [batch(images)] * parts)
        step.update()
        if average is not None:
            average.update(model, 1)

    return train
