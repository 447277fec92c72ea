"""Ground truth and detections as columns of numbers: what both ways of computing COCO's metrics begin from.

Shapes: G objects, D detections.
"""

from collections.abc import Hashable, Mapping, Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np

from detres.evaluation.result_arrays import ResultArrays

AREA_RANGES = ((0.0, 1e5**2), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e5**2))  # all, small, medium, large
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


class Objects(NamedTuple):
    """The ground truth, in the file's order.

    images, classes  (G,) int64: ranks of the ids
    boxes_xywh       (G, 4) float64
    areas            (G,) float64
    crowd            (G,) bool
    """

    images: np.ndarray
    classes: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


class Found(NamedTuple):
    """The detections, in the order given.

    images, classes  (D,) int64: ranks of the ids
    boxes_xywh       (D, 4) float64
    areas            (D,) float64
    scores           (D,) float64
    """

    images: np.ndarray
    classes: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    scores: np.ndarray


class Frame(NamedTuple):
    """Rank of every image id and of every category id, and the category names in that order."""

    images: dict[Any, int]
    classes: dict[Any, int]
    names: list[str]


def index_frame(ground_truth: Mapping[str, Any]) -> Frame:
    """The ids of a COCO annotation dict by rank: ids of every kind (strings, beyond 64 bits, mixed) become numbers.

    Raises ValueError where one of the three lists is missing.
    """
    for key in ("images", "categories", "annotations"):
        if not isinstance(ground_truth.get(key), list):
            raise ValueError(f"ground truth: `{key}` is missing or no list; expected a COCO annotation dict")
    for key in ("images", "categories"):
        _require_ids(ground_truth[key], key)
    images = sorted({image["id"] for image in ground_truth["images"]}, key=_order)
    names = {category["id"]: str(category.get("name", category["id"])) for category in ground_truth["categories"]}
    categories = sorted(names, key=_order)
    return Frame(_ranks(images), _ranks(categories), [names[category] for category in categories])


def _require_ids(entries: Sequence[Any], key: str) -> None:
    """Raise ValueError for the first entry without an id that can stand in a table."""
    kinds = {type(entry["id"]) if isinstance(entry, Mapping) and "id" in entry else None for entry in entries}
    if kinds <= {int, str}:
        return
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), Number | str):
            raise ValueError(f"ground truth: `{key}` entry {number}, {entry!r:.200}, has no `id`: a number or a string")


def _order(identifier: Any) -> tuple[bool, Any]:
    return isinstance(identifier, str), identifier


def _ranks(ids: list[Any]) -> dict[Any, int]:
    return {identifier: rank for rank, identifier in enumerate(ids)}


def objects_of(ground_truth: Mapping[str, Any], frame: Frame) -> Objects:
    """The annotations as columns; `iscrowd` is 0 and `area` width * height where missing or null.

    Raises ValueError naming the first annotation with a bad box, or with an image or a category that is not listed.
    """
    entries = ground_truth["annotations"]
    try:
        images = [frame.images.get(entry["image_id"]) for entry in entries]
        classes = [frame.classes.get(entry["category_id"]) for entry in entries]
    except TypeError as error:  # an id that is a list
        raise ValueError(_first_fault(entries, frame)) from error
    boxes = _boxes([entry["bbox"] for entry in entries])
    if boxes is None or None in images or None in classes:
        raise ValueError(_first_fault(entries, frame))
    areas = np.fromiter((entry.get("area") for entry in entries), np.float64, len(entries))  # None becomes NaN
    crowd = [bool(entry.get("iscrowd", 0)) for entry in entries]
    return Objects(
        np.array(images, dtype=np.int64),
        np.array(classes, dtype=np.int64),
        boxes,
        np.where(np.isnan(areas), _areas(boxes), areas),
        np.array(crowd, dtype=bool),
    )


def _boxes(rows: Sequence[Any]) -> np.ndarray | None:
    """Boxes as (G, 4), or None where they are not four finite numbers each."""
    try:
        boxes = np.array(rows, dtype=np.float64) if len(rows) else np.zeros((0, 4))
    except (TypeError, ValueError, OverflowError):
        return None
    return boxes if boxes.shape == (len(rows), 4) and np.isfinite(boxes).all() else None


def _first_fault(entries: Sequence[Mapping[str, Any]], frame: Frame) -> str:
    for number, entry in enumerate(entries):
        listed = _is_listed(entry["image_id"], frame.images) and _is_listed(entry["category_id"], frame.classes)
        if not listed or _boxes([entry["bbox"]]) is None:
            return (
                f"ground truth: annotation {entry.get('id', number)} (image_id {entry['image_id']!r}, category_id "
                f"{entry['category_id']!r}, bbox {entry['bbox']}) has a bad box, or an image or category that is not "
                "listed"
            )
    raise AssertionError("every annotation is sound")


def _is_listed(identifier: Any, ranks: Mapping[Any, int]) -> bool:
    return isinstance(identifier, Hashable) and identifier in ranks


def found_of(results: ResultArrays, frame: Frame) -> Found:
    """The detections as columns. Raises ValueError for the first whose image or category the ground truth lacks."""
    images, classes = results.ranked(frame.images, frame.classes)
    unlisted = np.flatnonzero((images < 0) | (classes < 0))
    if len(unlisted):
        number = int(unlisted[0])
        entry = results.rows(number, number + 1)[0]
        if images[number] < 0:
            raise ValueError(_unknown("image_id", entry, number, frame.images, "were they made on another split?"))
        hint = "use the annotation file's ids, not labels counted from 0"
        raise ValueError(_unknown("category_id", entry, number, frame.classes, hint))
    return Found(images, classes, results.boxes_xywh, _areas(results.boxes_xywh), results.scores)


def _areas(boxes_xywh: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return boxes_xywh[:, 2] * boxes_xywh[:, 3]


def _unknown(key: str, entry: Mapping[str, Any], number: int, known: Mapping[Any, int], hint: str) -> str:
    examples = ", ".join(map(repr, list(known)[:5]))
    listed = f"{len(known)} ids ({examples}{' ...' if len(known) > 5 else ''})"
    return f"results: entry {number} has {key} {entry[key]!r}, which is not among the ground truth's {listed}; {hint}"
