"""From `eval` and `data.eval_transforms` to the system around one detector or several, or a localizer."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detres.config import Config
from detres.config import data as data_settings
from detres.config.model import FasterRCNNSettings
from detres.config.test_time import AugmentSettings
from detres.data.transforms import DetectionTransforms
from detres.detector import FasterRCNN, Localizer
from detres.detector.test_time import DenseLocalizer, DetectionSystem, Merging, Selection, Transform, View
from detres.layers.inference import optimize_networks
from detres.wiring.datasets import build_transforms

_WBF_IOU = 0.55  # that of the paper
_PAPERS_SHORT, _PAPERS_PYRAMID, _PAPERS_REGION = 600, (200, 400, 600, 800, 1000), 224  # He et al., 2016, appendix B
_RESIZES = (data_settings.ResizeShortest, data_settings.ResizeFixed)


def for_inference(model: nn.Module, config: Config) -> nn.Module:
    """A copy of a network, or of networks put together, that computes as eval.inference and eval.precision say."""
    found = copy.deepcopy(model)
    optimize_networks(found, precision=config.eval.precision, **config.eval.inference.model_dump())
    return found


def with_test_time(model: nn.Module, config: Config) -> nn.Module:
    """The system that `eval` describes around a network; without such settings, and for a system, the model itself."""
    if isinstance(model, FasterRCNN) and config.eval.test_time:
        return build_system(config, [model])
    if isinstance(model, Localizer) and (dense := config.eval.dense) is not None:
        sizes = [_at_size(config, short, dense.max) for short in dense.short]
        return DenseLocalizer(model, _both_ways(sizes, dense.flip), dense.voting_iou)
    return model


def resizes_itself(model: nn.Module) -> bool:
    """Whether it takes images as they are read, not as data.eval_transforms make them."""
    return isinstance(model, (DetectionSystem, DenseLocalizer))


def build_system(
    config: Config, models: Sequence[FasterRCNN], columns: Sequence[Sequence[int]] | None = None
) -> DetectionSystem:
    """The system around `models`: thresholds and NMS are those of the configuration, not of the models' own.

    columns: for each model, where it has each class; None: in one order.
    """
    settings = config.eval
    refinement, pyramid, augment = settings.box_refinement, settings.multi_scale, settings.augment
    selection = _selection(config)
    scales: dict[str, Any] = {}
    if pyramid is not None:
        usual = _usual_short(config) / _PAPERS_SHORT
        sides = pyramid.short or [round(usual * short) for short in _PAPERS_PYRAMID]
        sizes = [_at_size(config, short, pyramid.max) for short in sides]
        region_size = usual * _PAPERS_REGION if pyramid.region_size is None else pyramid.region_size
        scales = {"pyramid": sizes, "region_size": region_size}
    return DetectionSystem(
        models,
        _views(config),
        selection,
        columns=columns,
        refinement_rounds=0 if refinement is None else refinement.rounds,
        merging=None if augment is None else _merging(augment, selection),
        **scales,
    )


def _selection(config: Config) -> Selection:
    assert isinstance(config.model, FasterRCNNSettings), "systems are for detectors"
    heads, refinement = config.model.roi_heads, config.eval.box_refinement
    return Selection(
        score_threshold=heads.score_threshold,
        nms=heads.nms,
        nms_iou=heads.nms_iou if refinement is None else refinement.nms_iou,
        soft_nms_sigma=heads.soft_nms_sigma,
        detections_per_image=heads.detections_per_image,
        min_size=heads.min_size,
        voting_iou=None if refinement is None else refinement.voting_iou,
    )


def _views(config: Config) -> list[View]:
    augment = config.eval.augment
    sizes = [_as_transform(build_transforms(config, training=False))]
    if augment is not None and augment.short is not None:
        sizes = [_at_size(config, short, augment.max) for short in augment.short]
    return _both_ways(sizes, augment is not None and augment.flip)


def _both_ways(sizes: Sequence[Transform], flip: bool) -> list[View]:
    """A view at each size, with `flip` followed by its mirror image."""
    return [View(size, mirrored) for size in sizes for mirrored in ((False, True) if flip else (False,))]


def _merging(augment: AugmentSettings, selection: Selection) -> Merging:
    usual = _WBF_IOU if augment.merge == "wbf" else selection.nms_iou
    iou = usual if augment.iou is None else augment.iou
    return Merging(augment.merge, iou, selection.score_threshold, selection.detections_per_image)


def _usual_short(config: Config) -> float:
    """The shorter side that data.eval_transforms resize to; the paper's where they do not."""
    step = next((step for step in config.data.eval_transforms if isinstance(step, _RESIZES)), None)
    if isinstance(step, data_settings.ResizeShortest):
        return step.short[0]
    return _PAPERS_SHORT if step is None else min(step.height, step.width)


def _at_size(config: Config, short: int, longest: int | None) -> Transform:
    """What data.eval_transforms make of an image, but with the shorter side `short`."""
    steps = list(config.data.eval_transforms)
    place = next((i for i, step in enumerate(steps) if isinstance(step, _RESIZES)), 0)
    others: list[data_settings.Transform] = [step for step in steps if not isinstance(step, _RESIZES)]
    others.insert(place, data_settings.ResizeShortest(type="resize_shortest", short=[short], max=longest))
    data = config.data.model_copy(update={"eval_transforms": others})
    return _as_transform(build_transforms(config.model_copy(update={"data": data}), training=False))


def _as_transform(transforms: DetectionTransforms) -> Transform:
    def transform(image: Tensor) -> Tensor:
        array = image.permute(1, 2, 0).contiguous().numpy()
        no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        made = transforms(array, no_boxes, no_labels, np.zeros(0, bool), 0)
        return torch.from_numpy(made.image).permute(2, 0, 1)

    return transform
