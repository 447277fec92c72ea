"""PASCAL VOC's mean average precision, as the development kit computes it (Everingham et al., IJCV 2010 and 2015).

Shapes: G ground-truth boxes and D detections of one image; P detections of one class in all images.

The devkit's boxes are 1-based inclusive pixels with widths x2 - x1 + 1. detres's boxes are continuous: the VOC reader
has taken 1 off x1 and y1, so that their plain IoU is the devkit's.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from detres.evaluation.metrics import DetectionMetrics, PrecisionRecall, mean_or_none, notes_on_classes
from detres.structures import Detections
from detres.structures.boxes import pairwise_iou


class AnnotatedObjects(Protocol):
    """Ground truth of one image: boxes (G, 4) xyxy, labels (G,) and difficult (G,), arrays or tensors.

    `difficult` objects neither have to be found nor count as false when found. So with `ignore` (G,), the crowds of
    COCO data, where there is such an attribute.
    """

    @property
    def boxes_xyxy(self) -> Any: ...

    @property
    def labels(self) -> Any: ...

    @property
    def difficult(self) -> Any: ...


class VocGroundTruth(NamedTuple):
    """The simplest AnnotatedObjects."""

    boxes_xyxy: Any
    labels: Any
    difficult: Any


class _Found(NamedTuple):
    """Detections of one or more images: score, label, best ground truth of that label (-1: none) and IoU with it."""

    scores: np.ndarray
    labels: np.ndarray
    best: np.ndarray
    iou: np.ndarray


def evaluate_voc(
    ground_truth: Sequence[AnnotatedObjects],
    detections: Sequence[Detections],
    class_names: Sequence[str],
    *,
    iou_thresholds: Sequence[float] = (0.5,),
    plus_one: bool = False,
) -> DetectionMetrics:
    """AP of every class and its mean, by the area under the curve (VOC2010 on) and by 11 points (VOC2007).

    `ground_truth` and `detections` have one entry per image. A detection is right when its IoU with the object of its
    class that it overlaps most exceeds the threshold and no detection of a higher score has that object; equal scores
    keep their order. Metrics: AP50 and AP50_11point (for a threshold of 0.5; so for each), and AP and AP_11point, their
    means over the thresholds. `plus_one`: the boxes are inclusive pixels, widths are x2 - x1 + 1.

    A class without objects (difficult ones aside) has None and does not count in the mean. Raises ValueError for
    labels outside `class_names`, NaN scores and lists of unequal length.
    """
    if len(ground_truth) != len(detections):
        raise ValueError(f"expected detections for {len(ground_truth)} images, got {len(detections)}")
    if not iou_thresholds or not all(0 <= t <= 1 for t in iou_thresholds):
        raise ValueError(f"iou_thresholds must be numbers in 0..1, got {list(iou_thresholds)}")
    labels, difficult, found = _match_all(ground_truth, detections, len(class_names), plus_one)
    per_class, curves = [], []
    for k, name in enumerate(class_names):
        row, class_curves = _evaluate_class(k, name, labels, difficult, found, iou_thresholds)
        per_class.append(row)
        curves += class_curves
    metrics, meanings = _summarize(per_class, iou_thresholds)
    reasons = {name: "no class has an object that is not difficult" for name, value in metrics.items() if value is None}
    notes = tuple(notes_on_classes(per_class))
    return DetectionMetrics("voc", metrics, reasons, meanings, per_class, notes, tuple(curves))


def average_precision(recall: np.ndarray, precision: np.ndarray, eleven_points: bool = False) -> float:
    """AP of a curve (P,) by rising recall: area under its upper envelope, or the mean of 11 points of it.

    The 11 recalls are multiples of 0.1 as floating-point numbers give them (the fourth is 0.30000000000000004), as in
    the public evaluation scripts, so that 3 of 10 objects do not reach it.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_points:
        at = np.searchsorted(recall, np.arange(0.0, 1.1, 0.1), side="left")
        return float(np.append(envelope, 0.0)[at].mean())
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _match_all(
    ground_truth: Sequence[AnnotatedObjects], detections: Sequence[Detections], num_classes: int, plus_one: bool
) -> tuple[np.ndarray, np.ndarray, _Found]:
    """Labels and difficult flags of all objects, and all detections, each with its best object (a number into them)."""
    labels, difficult, found, offset = [], [], [], 0
    for number, (truth, image_detections) in enumerate(zip(ground_truth, detections, strict=True)):
        image_labels = np.asarray(truth.labels, dtype=np.int64).reshape(-1)
        _check(number, image_labels, image_detections, num_classes)
        found.append(_match_image(truth, image_labels, image_detections, offset, plus_one))
        labels.append(image_labels)
        difficult.append(_excused(truth))
        offset += len(image_labels)
    if not found:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty.astype(bool), _Found(np.zeros(0), empty, empty, np.zeros(0))
    joined = _Found(*(np.concatenate(column) for column in zip(*found, strict=True)))
    return np.concatenate(labels), np.concatenate(difficult), joined


def _excused(truth: AnnotatedObjects) -> np.ndarray:
    difficult = np.asarray(truth.difficult, dtype=bool).reshape(-1)
    return difficult | np.asarray(getattr(truth, "ignore", False), dtype=bool)


def _match_image(
    truth: AnnotatedObjects, labels: np.ndarray, detections: Detections, offset: int, plus_one: bool
) -> _Found:
    scores, found_labels = detections.scores.double().numpy(), detections.labels.numpy()
    if len(labels) == 0 or len(detections) == 0:
        nothing = np.full(len(detections), -1)
        return _Found(scores, found_labels, nothing, nothing.astype(np.float64))
    grow = torch.tensor([0, 0, 1, 1]) if plus_one else torch.zeros(4)
    boxes = torch.as_tensor(np.asarray(truth.boxes_xyxy, dtype=np.float64)).reshape(-1, 4) + grow
    iou = pairwise_iou(detections.boxes_xyxy.double() + grow, boxes).numpy()
    iou = np.where(found_labels[:, None] == labels[None, :], iou, -1.0)
    best = iou.argmax(axis=1)
    return _Found(scores, found_labels, best + offset, iou[np.arange(len(best)), best])


def _check(number: int, labels: np.ndarray, detections: Detections, num_classes: int) -> None:
    for what, values in (("ground truth", labels), ("detections", detections.labels.numpy())):
        if len(values) and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"{what} of image {number}: labels must be 0..{num_classes - 1}, got {values.min()}..{values.max()}"
            )
    if not torch.isfinite(detections.scores).all() or not torch.isfinite(detections.boxes_xyxy).all():
        raise ValueError(f"detections of image {number} hold NaN or infinite scores or boxes")


def _evaluate_class(
    k: int,
    name: str,
    labels: np.ndarray,
    difficult: np.ndarray,
    found: _Found,
    iou_thresholds: Sequence[float],
) -> tuple[dict[str, Any], list[PrecisionRecall]]:
    """One row of the class table, and a curve per threshold when the class has objects."""
    mine = found.labels == k
    order = np.argsort(-found.scores[mine], kind="stable")
    best, iou = found.best[mine][order], found.iou[mine][order]
    total = int((~difficult[labels == k]).sum())
    row: dict[str, Any] = {
        "name": name,
        "num_ground_truth": total,
        "num_difficult": int(difficult[labels == k].sum()),
        "num_detections": int(mine.sum()),
    }
    curves = []
    for threshold in iou_thresholds:
        area = points = None
        if total:
            true, false = _true_and_false(best, iou, difficult, threshold)
            recall, precision = true / total, true / np.maximum(true + false, np.finfo(np.float64).eps)
            area, points = average_precision(recall, precision), average_precision(recall, precision, True)
            curves.append(PrecisionRecall(name, threshold, recall, precision))
        row |= {_key(threshold): area, f"{_key(threshold)}_11point": points}
    row["reasons"] = {key: f"no {name} that is not difficult" for key, value in row.items() if value is None}
    return row, curves


def _true_and_false(
    best: np.ndarray, iou: np.ndarray, difficult: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Running counts (P,) of right and wrong detections, which come by decreasing score."""
    hit = iou > threshold
    excused = np.zeros(len(best), dtype=bool)
    excused[hit] = difficult[best[hit]]
    candidates = np.flatnonzero(hit & ~excused)
    _, first = np.unique(best[candidates], return_index=True)  # every object belongs to the first that hits it
    right = np.zeros(len(best), dtype=bool)
    right[candidates[first]] = True
    return np.cumsum(right), np.cumsum(~right & ~excused)


def _key(threshold: float) -> str:
    return f"AP{100 * threshold:g}"


def _summarize(
    per_class: list[dict[str, Any]], iou_thresholds: Sequence[float]
) -> tuple[dict[str, float | None], dict[str, str]]:
    metrics: dict[str, float | None] = {}
    meanings: dict[str, str] = {}
    listed = ", ".join(f"{t:g}" for t in iou_thresholds)
    for suffix, way in (("", "area under the curve"), ("_11point", "11 points")):
        keys = [f"{_key(threshold)}{suffix}" for threshold in iou_thresholds]
        means = {key: mean_or_none([row[key] for row in per_class]) for key in keys}
        metrics |= {f"AP{suffix}": mean_or_none(list(means.values())), **means}
        meanings[f"AP{suffix}"] = f"mean over the classes and IoU thresholds ({listed}), {way}"
        for key, threshold in zip(keys, iou_thresholds, strict=True):
            meanings[key] = f"mean over the classes, IoU > {threshold:g}, {way}"
    return metrics, meanings
