"""COCO's twelve numbers for boxes, computed by pycocotools (https://cocodataset.org/#detection-eval).

Shapes: T IoU thresholds (0.50 to 0.95), R recall points (101), K classes, A area ranges, M limits of detections.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detres.evaluation.metrics import DetectionMetrics, PrecisionRecall, notes_on_classes
from detres.evaluation.results import check_coco_results

_AREAS = ("all", "small", "medium", "large")
_AREA_WORDS = {
    "all": "",
    "small": " with an area up to 32² px",
    "medium": " with an area of 32² to 96² px",
    "large": " with an area from 96² px",
}


def evaluate_coco(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    max_detections: Sequence[int] = (1, 10, 100),
) -> DetectionMetrics:
    """AP, AP50, AP75, APs, APm, APl, AR at each limit of detections per image, ARs, ARm, ARl, and a row per class.

    `ground_truth` is a COCO annotation dict (images, categories, annotations; `iscrowd` 0 and `area` width * height
    where missing), `results` are rows of a COCO results file. Neither is changed. AP and the AR by size use the largest
    of `max_detections`; the names AR1, AR10, ... follow it.

    A metric without ground truth is None, with the reason. Raises ValueError for results that name an image or a
    category that the ground truth lacks, and for malformed boxes and scores.
    """
    check_coco_results(results, "results")
    limits = _limits(max_detections)
    images, categories, names = _index(ground_truth)
    truth = _truth_rows(ground_truth, images, categories)
    found = _result_rows(results, images, categories)
    precision, recall, iou_thresholds = _accumulate(len(images), len(categories), truth, found, limits)
    metrics, meanings = _summarize(precision, recall, limits)
    reasons = {name: _reason(name, truth) for name, value in metrics.items() if value is None}
    per_class = [
        _class_row(name, precision[:, :, k], recall[:, k], mine, num_found, limits[-1])
        for k, (name, mine, num_found) in enumerate(zip(names, *_by_class(truth, found, len(names)), strict=True))
    ]
    curves = _curves(precision[..., 0, -1], iou_thresholds, names)
    return DetectionMetrics("coco", metrics, reasons, meanings, per_class, _notes(results, per_class), curves)


def _limits(max_detections: Sequence[int]) -> list[int]:
    """The limits in rising order, each once, as pycocotools expects them."""
    if not max_detections or any(limit < 1 for limit in max_detections):
        raise ValueError(f"max_detections must be positive numbers of detections, got {list(max_detections)}")
    return sorted(set(max_detections))


def _index(ground_truth: Mapping[str, Any]) -> tuple[dict[Any, int], dict[Any, int], list[str]]:
    """Rank of every image id and of every category id, and the category names in that order.

    pycocotools keeps ids in arrays: ranks serve it for ids of every kind (strings, beyond 64 bits, mixed).
    """
    for key in ("images", "categories", "annotations"):
        if not isinstance(ground_truth.get(key), list):
            raise ValueError(f"ground truth: `{key}` is missing or no list; expected a COCO annotation dict")
    images = sorted({image["id"] for image in ground_truth["images"]}, key=_order)
    names = {category["id"]: str(category.get("name", category["id"])) for category in ground_truth["categories"]}
    categories = sorted(names, key=_order)
    return _ranks(images), _ranks(categories), [names[category] for category in categories]


def _order(identifier: Any) -> tuple[bool, Any]:
    return isinstance(identifier, str), identifier


def _ranks(ids: list[Any]) -> dict[Any, int]:
    return {identifier: rank for rank, identifier in enumerate(ids)}


def _truth_rows(
    ground_truth: Mapping[str, Any], images: Mapping[Any, int], categories: Mapping[Any, int]
) -> list[dict[str, Any]]:
    rows = []
    for number, entry in enumerate(ground_truth["annotations"]):
        image, category, box = images.get(entry["image_id"]), categories.get(entry["category_id"]), entry["bbox"]
        if image is None or category is None or not np.isfinite(box).all():
            raise ValueError(
                f"ground truth: annotation {entry.get('id', number)} (image_id {entry['image_id']!r}, category_id "
                f"{entry['category_id']!r}, bbox {box}) has a bad box, or an image or category that is not listed"
            )
        area, crowd = entry.get("area", box[2] * box[3]), int(entry.get("iscrowd", 0))
        rows.append(_row(number, image, category, box, area) | {"iscrowd": crowd})
    return rows


def _result_rows(
    results: Sequence[Mapping[str, Any]], images: Mapping[Any, int], categories: Mapping[Any, int]
) -> list[dict[str, Any]]:
    rows = []
    for number, entry in enumerate(results):
        image, category, box = images.get(entry["image_id"]), categories.get(entry["category_id"]), entry["bbox"]
        if image is None:
            raise ValueError(_unknown("image_id", entry, number, images, "were they made on another split?"))
        if category is None:
            hint = "use the annotation file's ids, not labels counted from 0"
            raise ValueError(_unknown("category_id", entry, number, categories, hint))
        rows.append(_row(number, image, category, box, box[2] * box[3]) | {"score": entry["score"], "iscrowd": 0})
    return rows


def _unknown(key: str, entry: Mapping[str, Any], number: int, known: Mapping[Any, int], hint: str) -> str:
    examples = ", ".join(map(repr, list(known)[:5]))
    listed = f"{len(known)} ids ({examples}{' ...' if len(known) > 5 else ''})"
    return f"results: entry {number} has {key} {entry[key]!r}, which is not among the ground truth's {listed}; {hint}"


def _row(number: int, image: int, category: int, box: Sequence[float], area: float) -> dict[str, Any]:
    # Ids from 1 on: pycocotools takes an annotation with id 0 for "not matched".
    return {"id": number + 1, "image_id": image, "category_id": category, "bbox": list(box), "area": area}


def _accumulate(
    num_images: int, num_classes: int, truth: list[dict[str, Any]], found: list[dict[str, Any]], limits: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pycocotools' precision (T, R, K, A, M) and recall (T, K, A, M), -1 without ground truth, and IoU thresholds."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    frame = {"images": [{"id": i} for i in range(num_images)], "categories": [{"id": k} for k in range(num_classes)]}
    truth_api, found_api = COCO(), COCO()
    truth_api.dataset = {**frame, "annotations": truth}
    found_api.dataset = {**frame, "annotations": found}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress, and nothing else
        truth_api.createIndex()
        found_api.createIndex()
        evaluation = COCOeval(truth_api, found_api, "bbox")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"], evaluation.params.iouThrs


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


def _reason(name: str, truth: list[dict[str, Any]]) -> str:
    """Why a metric has no value, given the ground truth that it looks at."""
    if not truth:
        return "the ground truth holds no objects"
    if all(row["iscrowd"] for row in truth):
        return "the ground truth holds crowd regions only"
    size = next((size for size in _AREAS[1:] if name in (f"AP{size[0]}", f"AR{size[0]}")), "all")
    return f"the ground truth holds no object{_AREA_WORDS[size]}"


def _by_class(
    truth: list[dict[str, Any]], found: list[dict[str, Any]], num_classes: int
) -> tuple[list[list[dict[str, Any]]], list[int]]:
    """The ground-truth rows of every class, and how many detections it has."""
    grouped: list[list[dict[str, Any]]] = [[] for _ in range(num_classes)]
    for row in truth:
        grouped[row["category_id"]].append(row)
    counts = Counter(row["category_id"] for row in found)
    return grouped, [counts[k] for k in range(num_classes)]


def _class_row(
    name: str, precision: np.ndarray, recall: np.ndarray, truth: list[dict[str, Any]], num_found: int, limit: int
) -> dict[str, Any]:
    """One row of the class table, from precision (T, R, A, M), recall (T, A, M) and ground truth of that class."""
    metrics = {**_average_precisions(precision), f"AR{limit}": _mean(recall[:, 0, -1])}
    num_crowd = sum(row["iscrowd"] for row in truth)
    return {
        "name": name,
        "num_ground_truth": len(truth) - num_crowd,
        "num_crowd": num_crowd,
        "num_detections": num_found,
        **metrics,
        "reasons": {key: _reason(key, truth) for key, value in metrics.items() if value is None},
    }


def _curves(precision: np.ndarray, iou_thresholds: np.ndarray, names: list[str]) -> tuple[PrecisionRecall, ...]:
    """Curves at IoU 0.50 and 0.75 from precision (T, R, K) at all areas and the largest limit."""
    recall = np.linspace(0, 1, precision.shape[1])
    return tuple(
        PrecisionRecall(name, round(float(iou_thresholds[t]), 2), recall, precision[t, :, k])
        for t in (0, 5)
        for k, name in enumerate(names)
        if precision[t, 0, k] > -1
    )


def _notes(results: Sequence[Mapping[str, Any]], per_class: list[dict[str, Any]]) -> tuple[str, ...]:
    notes = notes_on_classes(per_class)
    keys = Counter((row["image_id"], row["category_id"], *row["bbox"], row["score"]) for row in results)
    copies = sum(keys.values()) - len(keys)
    if copies:
        notes.append(f"{copies} detections are exact copies of others; copies count as false")
    return tuple(notes)
