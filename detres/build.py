"""The wiring diagram: from a Config to networks, data sets and loaders. Modules never see config; this one does."""

import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from detres.api import Detector, ImageClassifier
from detres.backbones import FPN, VGG, Backbone, BackboneWithFPN, CifarResNet, ResNet, conv5_stage
from detres.classifier import Classifier, Mixing
from detres.classifier.vgg_head import VGGHead
from detres.config import Config, config_from_dict
from detres.config import backbones as backbone_settings
from detres.config import data as data_settings
from detres.config import model as model_settings
from detres.data.annotations import DetectionDataset
from detres.data.cifar import Cifar10Dataset
from detres.data.coco import CocoDataset
from detres.data.flat_images import FlatImagesDataset
from detres.data.image_folder import ImageFolderDataset
from detres.data.joined import JoinedDataset
from detres.data.loader import EvalLoader, TrainLoader
from detres.data.sampler import TrainSampler
from detres.data.samples import ClassificationDataset, TransformedClassificationDataset, TransformedDetectionDataset
from detres.data.transforms import DetectionTransforms
from detres.data.views import SubsetDataset, aspect_ratios, images_with_objects, repeat_factors, with_classes
from detres.data.voc import VocDataset
from detres.detector import FasterRCNN
from detres.detector.anchors import AnchorGenerator
from detres.detector.box_head import BoxPredictor, Conv5Head, ConvFCHead, FCHead
from detres.detector.roi_heads import RoIHeads
from detres.detector.rpn import RPN
from detres.engine.checkpoint import load_checkpoint, load_model_state
from detres.layers.pixels import PixelNormalizer
from detres.layers.roi_pool import RoIPooler
from detres.weights.backbone import load_backbone
from detres.weights.load import load_weights
from detres.weights.pixels import pixel_mismatch
from detres.weights.report import LoadReport
from detres.weights.sources import read_state_dict

AnyDataset = DetectionDataset | ClassificationDataset


# Networks


def build_backbone(settings: backbone_settings.Backbone) -> Backbone:
    """The backbone that `model.backbone` describes, randomly initialised."""
    options = settings.model_dump(exclude={"type", "weights"})
    match settings:
        case backbone_settings.ResNetSettings():
            return ResNet(**options)
        case backbone_settings.CifarResNetSettings():
            return CifarResNet(**options)
        case backbone_settings.VGGSettings():
            return VGG(**options)
        case _:
            outside = _outside(settings.type, "model.backbone.type")(**settings.args)
            if not isinstance(outside, nn.Module) or not isinstance(outside, Backbone):
                raise ValueError(
                    f"model.backbone.type: {settings.type} is no backbone; expected an nn.Module with feature_specs "
                    "and forward(pixels) -> dict of maps (detres.backbones.Backbone)"
                )
            return outside


def build_detector(settings: model_settings.FasterRCNNSettings, num_classes: int) -> FasterRCNN:
    """The Faster R-CNN that `model` describes, randomly initialised, for `num_classes` classes."""
    backbone = build_backbone(settings.backbone)
    if settings.neck is not None:
        backbone = BackboneWithFPN(backbone, FPN(backbone.feature_specs, **settings.neck.model_dump()))
    anchors = AnchorGenerator(**settings.anchors.model_dump())
    rpn_options = settings.rpn.model_dump(exclude={"sampling"})
    for name in ("pre_nms_top_n", "post_nms_top_n"):
        rpn_options[name] = (rpn_options.pop(f"{name}_train"), rpn_options.pop(f"{name}_test"))
    rpn = RPN(backbone.feature_specs, anchors, **rpn_options, **settings.rpn.sampling.model_dump())
    roi_heads = _build_roi_heads(settings, backbone, num_classes)
    return FasterRCNN(PixelNormalizer(**settings.pixels.model_dump()), cast(nn.Module, backbone), rpn, roi_heads)


def _build_roi_heads(settings: model_settings.FasterRCNNSettings, backbone: Backbone, num_classes: int) -> RoIHeads:
    heads = settings.roi_heads
    specs = {name: spec for name, spec in backbone.feature_specs.items() if name not in ("p6", "p7")}
    pooler = RoIPooler([spec.stride for spec in specs.values()], **heads.pool.model_dump())
    channels, size = next(iter(specs.values())).channels, heads.pool.output_size
    options = heads.box_head.model_dump(exclude={"type"})
    match heads.box_head:
        case model_settings.FCHead():
            box_head: FCHead | ConvFCHead | Conv5Head = FCHead(channels, size, **options)
        case model_settings.ConvFCHead():
            box_head = ConvFCHead(channels, size, **options)
        case _:
            conv5 = conv5_stage(**settings.backbone.model_dump(exclude={"type", "weights"}))
            box_head = Conv5Head(conv5, conv5.out_channels)
    predictor = BoxPredictor(
        box_head.out_channels, num_classes, class_agnostic=heads.class_agnostic, background=heads.background
    )
    others = heads.model_dump(exclude={"pool", "box_head", "class_agnostic", "background", "sampling"})
    return RoIHeads(list(specs), pooler, box_head, predictor, **others, **heads.sampling.model_dump())


def build_model(config: Config, num_classes: int) -> FasterRCNN | Classifier:
    """The network that `model` describes, initialised at random from the config's seed."""
    torch.manual_seed(config.seed)
    settings = config.model
    if isinstance(settings, model_settings.FasterRCNNSettings):
        return build_detector(settings, num_classes)
    backbone = build_backbone(settings.backbone)
    return Classifier(
        backbone,
        num_classes,
        head=_build_classifier_head(settings.head, backbone),
        pixels=PixelNormalizer(**settings.pixels.model_dump()),
        label_smoothing=settings.label_smoothing,
        dropout=settings.dropout,
        mixing=None if settings.mixing is None else Mixing(**settings.mixing.model_dump()),
    )


def _build_classifier_head(settings: model_settings.LinearHead | model_settings.VGGHead, backbone: Backbone) -> Any:
    if isinstance(settings, model_settings.LinearHead):
        return None
    last = list(backbone.feature_specs.values())[-1]
    return VGGHead(last.channels, **settings.model_dump(exclude={"type"}))


def load_initial_weights(
    model: FasterRCNN | Classifier, config: Config, class_names: Sequence[str]
) -> list[LoadReport]:
    """Load what `model.weights` (a whole model) or else `model.backbone.weights` name; one report for each."""
    if config.model.weights is not None:
        found = read_state_dict(config.model.weights)
        report = load_weights(
            model,
            found.state_dict,
            class_names=class_names,
            source_class_names=found.class_names,
            source_background=found.background,
            source=found.source,
        )
        return [report]
    if config.model.backbone.weights is not None:
        found = read_state_dict(config.model.backbone.weights)
        report = load_backbone(model, found)
        if mismatch := pixel_mismatch(found, config.model.pixels.model_dump()):
            warnings.warn(mismatch, stacklevel=2)
        return [report]
    return []


# Data


def data_root() -> Path:
    """Where relative data paths start: the folder in DETRES_DATASETS, else datasets/ below the working directory."""
    return Path(os.environ.get("DETRES_DATASETS", "datasets"))


def build_dataset(
    settings: data_settings.Dataset, on_bad_box: str = "drop", class_names: Sequence[str] | None = None
) -> AnyDataset:
    """The data set that one entry of `data` describes; `class_names` gives a classification set its labels."""
    options = settings.model_dump(exclude={"type"})
    for name in ("annotations", "images", "root", "labels", "classes"):
        if options.get(name) is not None:
            options[name] = data_root() / options[name]
    match settings:
        case data_settings.CocoDataset():
            return CocoDataset(**options, on_bad_box=on_bad_box)
        case data_settings.VocDataset():
            return VocDataset(**options, on_bad_box=on_bad_box)
        case data_settings.ImageFolderDataset():
            return ImageFolderDataset(**options, class_names=class_names)
        case data_settings.FlatImagesDataset():
            return FlatImagesDataset(**options, class_names=class_names)
        case data_settings.Cifar10Dataset():
            return Cifar10Dataset(**options, class_names=class_names)
        case _:
            return cast(AnyDataset, _outside(settings.type, "data")(**settings.args))


def build_train_dataset(config: Config) -> AnyDataset:
    """The training set of `data.train`: several sets are joined; images without objects go by option."""
    entries = config.data.train if isinstance(config.data.train, list) else [config.data.train]
    parts = [build_dataset(entry, config.data.on_bad_box) for entry in entries]
    if isinstance(config.model, model_settings.ClassifierSettings):
        if len(parts) > 1:
            raise ValueError(f"data.train: got {len(parts)} sets, expected one for a classifier")
        return parts[0]
    dataset = cast(DetectionDataset, parts[0] if len(parts) == 1 else JoinedDataset(cast(Any, parts)))
    if config.data.keep_empty_images:
        return dataset
    return SubsetDataset(dataset, images_with_objects(dataset))


def build_eval_dataset(config: Config, class_names: Sequence[str], split: str = "val") -> AnyDataset:
    """The set `data.val` or `data.test`, with labels that index `class_names`."""
    settings = config.data.val if split == "val" else config.data.test
    if settings is None:
        raise ValueError(f"data.{split}: the configuration has no {split} set; add one, or evaluate on val")
    where = f"data.{split}"
    dataset = build_dataset(settings, config.data.on_bad_box, class_names)
    if isinstance(config.model, model_settings.ClassifierSettings):
        if tuple(dataset.class_names) != tuple(class_names):  # only a set of the user's own class can get here
            raise ValueError(
                f"{where}: its classes are {', '.join(dataset.class_names[:8])} ..., expected those of the training "
                f"set in their order: {', '.join(class_names[:8])} ..."
            )
        return dataset
    return with_classes(cast(DetectionDataset, dataset), class_names, where)


def build_transforms(config: Config, training: bool) -> DetectionTransforms:
    """The steps of `data.train_transforms` or `data.eval_transforms`."""
    steps = config.data.train_transforms if training else config.data.eval_transforms
    return DetectionTransforms([step.model_dump() for step in steps], min_box_size=config.data.min_box_size)


def build_train_loader(config: Config, dataset: AnyDataset, *, pin_memory: bool = False) -> TrainLoader:
    """Endless training batches."""
    data, train = config.data, config.train
    ratios = repeats = None
    if not isinstance(config.model, model_settings.ClassifierSettings):
        detection = cast(DetectionDataset, dataset)
        ratios = aspect_ratios(detection) if data.aspect_ratio_grouping else None
        repeats = repeat_factors(detection, data.repeat_threshold) if data.repeat_threshold > 0 else None
    sampler = TrainSampler(
        len(dataset),
        train.batch_size,
        config.seed,
        aspect_ratios=ratios,
        repeat_factors=repeats,
        micro_batches=train.accumulate,
    )
    return TrainLoader(
        _samples(config, dataset, training=True),
        sampler,
        size_divisibility=config.model.pixels.size_divisibility,
        workers=data.workers,
        timeout=data.worker_timeout,
        pin_memory=pin_memory,
    )


def build_eval_loader(config: Config, dataset: AnyDataset) -> EvalLoader:
    """Every image of the set once, in order."""
    return EvalLoader(
        _samples(config, dataset, training=False),
        config.eval.batch_size,
        size_divisibility=config.model.pixels.size_divisibility,
        workers=config.data.workers,
        timeout=config.data.worker_timeout,
    )


def _samples(
    config: Config, dataset: AnyDataset, training: bool
) -> TransformedDetectionDataset | TransformedClassificationDataset:
    transforms = build_transforms(config, training)
    if isinstance(config.model, model_settings.ClassifierSettings):
        labelled = cast(ClassificationDataset, dataset)
        return TransformedClassificationDataset(labelled, transforms, config.seed, config.data.on_bad_image)
    annotated = cast(DetectionDataset, dataset)
    return TransformedDetectionDataset(annotated, transforms, config.seed, config.data.on_bad_image)


# Checkpoints


def model_from_checkpoint(
    path: str | Path, *, trust_code: bool = False
) -> tuple[FasterRCNN | Classifier, Config, tuple[str, ...]]:
    """The network of a detres checkpoint with its (averaged) weights, its configuration and its class names.

    `trust_code`: whether the checkpoint may name a backbone class of somebody's (`type: module:Class`), which is then
    imported and called. Raises CheckpointError naming the file when it is missing, damaged or not one of ours, and
    ValueError when it names such a class and is not trusted.
    """
    state = load_checkpoint(path)
    config = config_from_dict(state["config"], str(path))
    if isinstance(config.model.backbone, backbone_settings.OutsideBackbone) and not trust_code:
        raise ValueError(
            f"{path}: its backbone is the class {config.model.backbone.type}, which would be imported and run. If you "
            "know where the file comes from, allow it: --trust-code, or detres.load(..., trust_code=True)"
        )
    names = tuple(state["class_names"])
    model = build_model(config, len(names))
    load_model_state(model, state["ema"] or state["model"], path)
    return model.eval(), config, names


def predictor_from_checkpoint(
    path: str | Path, device: str | torch.device = "auto", *, trust_code: bool = False
) -> Detector | ImageClassifier:
    """What `detres.load` returns: a Detector or an ImageClassifier, by what the checkpoint holds."""
    model, config, names = model_from_checkpoint(path, trust_code=trust_code)
    kind = Detector if isinstance(model, FasterRCNN) else ImageClassifier
    return kind(
        model,
        names,
        build_transforms(config, training=False),
        device=device,
        size_divisibility=config.model.pixels.size_divisibility,
        precision=config.eval.precision,
    )


def _outside(name: str, key: str) -> type[Any]:
    """The class that `package.module:Class` names."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{key}: cannot import {name!r} ({error}); expected package.module:Class") from error
    if not isinstance(found, type):
        raise ValueError(f"{key}: {name!r} is a {type(found).__name__}, expected a class")
    return found
