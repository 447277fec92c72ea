"""From `data` to data sets, transforms and loaders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from detres.config import Config
from detres.config import data as data_settings
from detres.config import model as model_settings
from detres.config.localizer import LocalizerSettings
from detres.data.annotations import DetectionDataset
from detres.data.box_lists import BoxListDataset
from detres.data.cifar import Cifar10Dataset
from detres.data.coco import CocoDataset
from detres.data.flat_images import FlatImagesDataset
from detres.data.image_cache import ImageCache, describe_cache
from detres.data.image_folder import ImageFolderDataset
from detres.data.imagenet_loc import ImageNetLocDataset
from detres.data.joined import JoinedDataset
from detres.data.loader import EvalLoader, TrainLoader
from detres.data.localization import OneClassDataset
from detres.data.own import hold_out, open_own_data
from detres.data.sampler import TrainSampler
from detres.data.samples import (
    ClassificationDataset,
    TransformedClassificationDataset,
    TransformedDetectionDataset,
    TransformedSamples,
)
from detres.data.transforms import DetectionTransforms
from detres.data.views import SubsetDataset, aspect_ratios, images_with_objects, repeat_factors, with_classes
from detres.data.voc import VocDataset
from detres.structures.processes import ALONE, Processes
from detres.wiring.outside import outside_class

AnyDataset = DetectionDataset | ClassificationDataset


def data_root() -> Path:
    """Where relative data paths start: the folder in DETRES_DATASETS, else datasets/ below the working directory."""
    return Path(os.environ.get("DETRES_DATASETS", "datasets"))


def build_dataset(
    settings: data_settings.Dataset, on_bad_box: str = "drop", class_names: Sequence[str] | None = None
) -> AnyDataset:
    """The data set that one entry of `data` describes; `class_names` gives a classification set its labels."""
    if isinstance(settings, data_settings.OwnDataset):
        return _build_own(settings, on_bad_box)
    options = settings.model_dump(exclude={"type"})
    for name in ("annotations", "images", "root", "labels", "classes", "boxes"):
        if options.get(name) is not None:
            options[name] = data_root() / options[name]
    match settings:
        case data_settings.CocoDataset():
            return CocoDataset(**options, on_bad_box=on_bad_box)
        case data_settings.VocDataset():
            return VocDataset(**options, on_bad_box=on_bad_box)
        case data_settings.ImageNetLocDataset():
            return ImageNetLocDataset(**options, on_bad_box=on_bad_box)
        case data_settings.BoxListDataset():
            return BoxListDataset(**options, on_bad_box=on_bad_box)
        case data_settings.ImageFolderDataset():
            return ImageFolderDataset(**options, class_names=class_names)
        case data_settings.FlatImagesDataset():
            return FlatImagesDataset(**options, class_names=class_names)
        case data_settings.Cifar10Dataset():
            return Cifar10Dataset(**options, class_names=class_names)
        case _:
            return cast(AnyDataset, outside_class(settings.type, "data")(**settings.args))


def _build_own(settings: data_settings.OwnDataset, on_bad_box: str) -> DetectionDataset:
    return open_own_data(*own_paths(settings), on_bad_box=on_bad_box)


def own_paths(settings: data_settings.OwnDataset) -> tuple[Path, Path]:
    """Where the annotations and the images of the user's own data are; ValueError where nothing is there."""
    assert settings.annotations is not None and settings.images is not None, "checked by the schema, or filled in"
    return _own_path(settings.annotations, "annotations"), _own_path(settings.images, "images")


def _own_path(text: str, name: str) -> Path:
    """A path as it was written if something is there, else below the folder of the data sets."""
    for place in (Path(text).expanduser(), data_root() / text):
        if place.exists():
            return place
    raise ValueError(
        f"neither {Path.cwd() / text} nor {data_root() / text} exists; name yours: data.train.{name}=PATH "
        "(data.val and data.test likewise)"
    )


def build_train_dataset(config: Config) -> AnyDataset:
    """The training set of `data.train`: sets are joined; what data.val holds out and, by option, empty images go."""
    dataset = _joined(config)
    if isinstance(config.model, model_settings.ClassifierSettings):
        return dataset
    detection = cast(DetectionDataset, dataset)
    if is_held_out(config.data.val):
        detection = SubsetDataset(detection, _held_out(detection, config.data.val)[0])
    if isinstance(config.model, LocalizerSettings):
        return OneClassDataset(detection, "data.train")
    if not config.data.keep_empty_images:
        detection = SubsetDataset(detection, images_with_objects(detection))
    return detection


def _joined(config: Config) -> AnyDataset:
    """All of `data.train` as one set."""
    parts = [build_dataset(entry, config.data.on_bad_box) for entry in config.data.train]
    if len(parts) == 1:
        return parts[0]
    if isinstance(config.model, model_settings.ClassifierSettings):
        raise ValueError(f"data.train: got {len(parts)} sets, expected one for a classifier")
    return JoinedDataset(cast(Any, parts))


def is_held_out(settings: data_settings.Dataset) -> bool:
    """Whether an entry of `data` stands for some of the training images."""
    return isinstance(settings, data_settings.OwnDataset) and settings.annotations is None


def _held_out(dataset: DetectionDataset, settings: data_settings.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Indices of what stays in the training set, and of what data.val takes from it."""
    assert isinstance(settings, data_settings.OwnDataset), "asked by is_held_out"
    return hold_out((dataset.image_id(i) for i in range(len(dataset))), settings.held_out)


def build_split(config: Config, split: str = "val", class_names: Sequence[str] | None = None) -> AnyDataset:
    """The set `data.val` or `data.test` with its own classes; `class_names` gives a classification set its labels."""
    settings = config.data.val if split == "val" else config.data.test
    if settings is None:
        raise ValueError(f"data.{split}: the configuration has no {split} set; add one, or evaluate on val")
    if is_held_out(settings):
        dataset = cast(DetectionDataset, _joined(config))
        return SubsetDataset(dataset, _held_out(dataset, settings)[1])
    return build_dataset(with_image_folder(settings, config), config.data.on_bad_box, class_names)


def with_image_folder(settings: data_settings.Dataset, config: Config) -> data_settings.Dataset:
    """An entry of `data`; where it is of the user's own and names no folder of images, that of data.train is meant."""
    first = config.data.train[0]
    if isinstance(settings, data_settings.OwnDataset) and isinstance(first, data_settings.OwnDataset):
        return settings.model_copy(update={"images": settings.images or first.images})
    return settings


def build_eval_dataset(config: Config, class_names: Sequence[str], split: str = "val") -> AnyDataset:
    """The set `data.val` or `data.test`, with labels that index `class_names`."""
    where = f"data.{split}"
    dataset = build_split(config, split, class_names)
    if isinstance(config.model, model_settings.ClassifierSettings):
        if tuple(dataset.class_names) != tuple(class_names):  # only a set of the user's own class can get here
            raise ValueError(
                f"{where}: its classes are {', '.join(dataset.class_names[:8])} ..., expected those of the training "
                f"set in their order: {', '.join(class_names[:8])} ..."
            )
        return dataset
    detection = with_classes(cast(DetectionDataset, dataset), class_names, where)
    return OneClassDataset(detection, where) if isinstance(config.model, LocalizerSettings) else detection


def build_transforms(config: Config, training: bool) -> DetectionTransforms:
    """The steps of `data.train_transforms` or `data.eval_transforms`."""
    steps = config.data.train_transforms if training else config.data.eval_transforms
    return DetectionTransforms([step.model_dump() for step in steps], min_box_size=config.data.min_box_size)


def build_train_loader(
    config: Config, dataset: AnyDataset, *, pin_memory: bool = False, processes: Processes = ALONE
) -> TrainLoader:
    """Endless training batches; of several processes each gets its share of them."""
    data, train = config.data, config.train
    ratios = repeats = None
    if not isinstance(config.model, model_settings.ClassifierSettings):
        detection = cast(DetectionDataset, dataset)
        ratios = aspect_ratios(detection) if data.aspect_ratio_grouping else None
        repeats = repeat_factors(detection, data.repeat_threshold) if data.repeat_threshold > 0 else None
    sampler = TrainSampler(
        len(dataset),
        train.images_per_step,
        config.seed,
        aspect_ratios=ratios,
        repeat_factors=repeats,
        micro_batches=train.accumulate,
        rank=processes.rank,
        world_size=processes.world_size,
    )
    return TrainLoader(
        _samples(config, dataset, training=True),
        sampler,
        size_divisibility=config.model.pixels.size_divisibility,
        workers=data.workers,
        timeout=data.worker_timeout,
        prefetch=data.prefetch,
        restarts=data.worker_restarts,
        pin_memory=pin_memory,
    )


def build_eval_loader(config: Config, dataset: AnyDataset, *, pin_memory: bool = False) -> EvalLoader:
    """Every image of the set once, in order."""
    return _eval_loader(config, _samples(config, dataset, training=False), pin_memory)


def build_detection_loader(config: Config, dataset: AnyDataset, *, pin_memory: bool = False) -> EvalLoader:
    """Every image of a detection set once, in order, as a model of another kind sees it (a localizer's classifier)."""
    annotated = cast(DetectionDataset, dataset)
    transforms = build_transforms(config, training=False)
    options = _reading(config, dataset, training=False)
    samples = TransformedDetectionDataset(annotated, transforms, config.seed, config.data.on_bad_image, **options)
    return _eval_loader(config, samples, pin_memory)


def _eval_loader(config: Config, samples: TransformedSamples, pin_memory: bool) -> EvalLoader:
    return EvalLoader(
        samples,
        config.eval.batch_size,
        size_divisibility=config.model.pixels.size_divisibility,
        workers=config.data.workers,
        timeout=config.data.worker_timeout,
        prefetch=config.data.prefetch,
        pin_memory=pin_memory,
    )


def _samples(
    config: Config, dataset: AnyDataset, training: bool
) -> TransformedDetectionDataset | TransformedClassificationDataset:
    transforms = build_transforms(config, training)
    options = _reading(config, dataset, training)
    if isinstance(config.model, model_settings.ClassifierSettings):
        labelled = cast(ClassificationDataset, dataset)
        return TransformedClassificationDataset(labelled, transforms, config.seed, config.data.on_bad_image, **options)
    annotated = cast(DetectionDataset, dataset)
    return TransformedDetectionDataset(annotated, transforms, config.seed, config.data.on_bad_image, **options)


def _reading(config: Config, dataset: AnyDataset, training: bool) -> dict[str, Any]:
    """How images are decoded, and the memory that keeps those of the training set."""
    data = config.data
    decode = ("reduced" if training else "full") if data.decode == "auto" else data.decode
    kept = data.cache if training else None
    return {"decode": decode, "cache": None if kept is None else ImageCache(len(dataset), kept.megabytes)}


def describe_image_cache(config: Config, dataset: AnyDataset) -> str | None:
    """One line on what data.cache will hold of the training set; None without one."""
    if config.data.cache is None:
        return None
    megabytes = config.data.cache.megabytes
    if isinstance(config.model, model_settings.ClassifierSettings):
        return f"data.cache: {megabytes} MiB for the decoded images of {len(dataset)}"  # sizes are not known yet
    detection = cast(DetectionDataset, dataset)
    return describe_cache(megabytes, np.array([detection.size_hw(i) for i in range(len(detection))]))
