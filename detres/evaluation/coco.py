"""COCO's twelve numbers for boxes (https://cocodataset.org/#detection-eval), computed by pycocotools or as it does.

Shapes: T IoU thresholds (0.50 to 0.95), R recall points (101), K classes, A area ranges, M limits of detections.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detres.evaluation import coco_accumulate, coco_reference
from detres.evaluation.coco_matching import UndefinedOverlap
from detres.evaluation.coco_tables import (
    IOU_THRESHOLDS,
    RECALLS,
    Found,
    Frame,
    Objects,
    found_of,
    index_frame,
    objects_of,
)
from detres.evaluation.metrics import DetectionMetrics, PrecisionRecall, notes_on_classes
from detres.evaluation.ordering import stable_order, starts_of_runs
from detres.evaluation.result_arrays import ResultArrays

BACKENDS = ("auto", "numpy", "pycocotools")
_AREAS = ("all", "small", "medium", "large")
_AREA_WORDS = {
    "all": "",
    "small": " with an area up to 32² px",
    "medium": " with an area of 32² to 96² px",
    "large": " with an area from 96² px",
}


def evaluate_coco(
    ground_truth: Mapping[str, Any],
    results: ResultArrays | Sequence[Mapping[str, Any]],
    *,
    max_detections: Sequence[int] = (1, 10, 100),
    backend: str = "auto",
) -> DetectionMetrics:
    """AP, AP50, AP75, APs, APm, APl, AR at each limit of detections per image, ARs, ARm, ARl, and a row per class.

    `ground_truth` is a COCO annotation dict (images, categories, annotations; `iscrowd` 0 and `area` width * height
    where missing), `results` are detections in arrays, or rows of a COCO results file. Neither is changed. AP and the
    AR by size use the largest of `max_detections`; the names AR1, AR10, ... follow it.

    `backend`: "pycocotools", or "numpy", which computes the same numbers to the last bit many times as fast. "auto" is
    numpy, and pycocotools for boxes so small or so large that they have no IoU in double precision.

    A metric without ground truth is None, with the reason. Raises ValueError for results that name an image or a
    category that the ground truth lacks, and for malformed boxes and scores.
    """
    arrays = results if isinstance(results, ResultArrays) else ResultArrays.from_rows(results)
    arrays.check("results")
    limits = _limits(max_detections)
    frame = index_frame(ground_truth)
    truth, found = objects_of(ground_truth, frame), found_of(arrays, frame)
    precision, recall = _precision_recall(truth, found, frame, limits, backend)
    metrics, meanings = _summarize(precision, recall, limits)
    reasons = {
        name: _reason(name, len(truth.crowd), bool(truth.crowd.all()))
        for name, value in metrics.items()
        if value is None
    }
    per_class = _class_rows(precision, recall, truth, found, frame.names, limits[-1])
    curves = _curves(precision[..., 0, -1], frame.names)
    return DetectionMetrics("coco", metrics, reasons, meanings, per_class, _notes(found, per_class), curves)


def coco_precision_recall(
    ground_truth: Mapping[str, Any],
    results: ResultArrays,
    *,
    max_detections: Sequence[int] = (1, 10, 100),
    backend: str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """What evaluate_coco averages: precision (T, R, K, A, M) and recall (T, K, A, M), -1 without ground truth."""
    frame = index_frame(ground_truth)
    truth, found = objects_of(ground_truth, frame), found_of(results, frame)
    return _precision_recall(truth, found, frame, _limits(max_detections), backend)


def _limits(max_detections: Sequence[int]) -> list[int]:
    """The limits in rising order, each once, as pycocotools expects them."""
    if not max_detections or any(limit < 1 for limit in max_detections):
        raise ValueError(f"max_detections must be positive numbers of detections, got {list(max_detections)}")
    return sorted(set(max_detections))


def _precision_recall(
    truth: Objects, found: Found, frame: Frame, limits: list[int], backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M), -1 without ground truth."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(BACKENDS)}")
    if backend != "pycocotools":
        try:
            return coco_accumulate.precision_recall(truth, found, len(frame.names), limits)
        except UndefinedOverlap as error:
            if backend != "auto":
                raise ValueError(f"results: {error}; set the backend to auto or pycocotools") from error
    return coco_reference.precision_recall(truth, found, len(frame.images), len(frame.names), limits)


def _summarize(
    precision: np.ndarray, recall: np.ndarray, limits: list[int]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """COCOeval.summarize from the arrays: its own text takes 100 detections for granted."""
    metrics = _average_precisions(precision)
    metrics |= {f"AR{limit}": _mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)}
    metrics |= {f"AR{size[0]}": _mean(recall[:, :, a, -1]) for a, size in enumerate(_AREAS) if a}
    last = limits[-1]
    meanings = {
        "AP": f"IoU 0.50:0.95, at most {last} detections per image",
        "AP50": "IoU 0.50",
        "AP75": "IoU 0.75",
        **{f"AP{size[0]}": f"objects{_AREA_WORDS[size]}" for size in _AREAS[1:]},
        **{f"AR{limit}": f"recall, IoU 0.50:0.95, at most {limit} per image" for limit in limits},
        **{f"AR{size[0]}": f"recall, objects{_AREA_WORDS[size]}" for size in _AREAS[1:]},
    }
    return metrics, meanings


def _average_precisions(precision: np.ndarray) -> dict[str, float | None]:
    """The six APs of precision (T, R, K, A, M), or (T, R, A, M) for one class."""
    return {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[0, ..., 0, -1]),
        "AP75": _mean(precision[5, ..., 0, -1]),
        **{f"AP{size[0]}": _mean(precision[..., a, -1]) for a, size in enumerate(_AREAS) if a},
    }


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _reason(name: str, num_objects: int, all_crowd: bool) -> str:
    """Why a metric has no value, given the ground truth that it looks at."""
    if not num_objects:
        return "the ground truth holds no objects"
    if all_crowd:
        return "the ground truth holds crowd regions only"
    size = next((size for size in _AREAS[1:] if name in (f"AP{size[0]}", f"AR{size[0]}")), "all")
    return f"the ground truth holds no object{_AREA_WORDS[size]}"


def _class_rows(
    precision: np.ndarray, recall: np.ndarray, truth: Objects, found: Found, names: list[str], limit: int
) -> list[dict[str, Any]]:
    """The class table, from precision (T, R, K, A, M) and recall (T, K, A, M)."""
    objects, crowds, detections = (
        np.bincount(classes, minlength=len(names)).tolist()
        for classes in (truth.classes, truth.classes[truth.crowd], found.classes)
    )
    rows = []
    for k, name in enumerate(names):
        metrics = {**_average_precisions(precision[:, :, k]), f"AR{limit}": _mean(recall[:, k, 0, -1])}
        counts = {
            "num_ground_truth": objects[k] - crowds[k],
            "num_crowd": crowds[k],
            "num_detections": detections[k],
        }
        missing = [key for key, value in metrics.items() if value is None]
        reasons = {key: _reason(key, objects[k], objects[k] == crowds[k]) for key in missing}
        rows.append({"name": name, **counts, **metrics, "reasons": reasons})
    return rows


def _curves(precision: np.ndarray, names: list[str]) -> tuple[PrecisionRecall, ...]:
    """Curves at IoU 0.50 and 0.75 from precision (T, R, K) at all areas and the largest limit."""
    recall = RECALLS.copy()
    return tuple(
        PrecisionRecall(name, round(float(IOU_THRESHOLDS[t]), 2), recall, precision[t, :, k])
        for t in (0, 5)
        for k, name in enumerate(names)
        if precision[t, 0, k] > -1
    )


def _notes(found: Found, per_class: list[dict[str, Any]]) -> tuple[str, ...]:
    notes = notes_on_classes(per_class)
    if copies := _count_copies(found):
        notes.append(f"{copies} detections are exact copies of others; copies count as false")
    return tuple(notes)


def _count_copies(found: Found) -> int:
    """How many detections have an earlier one of the same image, class, score and box."""
    keys = (found.images, found.classes, found.scores)
    order = stable_order(*keys)
    starts = starts_of_runs(*(key[order] for key in keys))
    lengths = np.diff(starts, append=len(order))
    rows = order[np.repeat(lengths > 1, lengths)]  # few share image, class and score: only their boxes are compared
    columns = [*(key[rows] for key in keys), *found.boxes_xywh[rows].T]
    order = stable_order(*(columns))
    return len(rows) - len(starts_of_runs(*(column[order] for column in columns)))
