"""ResultArrays: the rows of a COCO results file as columns of numbers, half a million of them in a few arrays.

Shapes: D detections.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detres.evaluation.ordering import stable_order
from detres.evaluation.result_rows import LARGEST, RESULT_KEYS, check_coco_results
from detres.structures import Detections
from detres.structures.boxes import xywh_to_xyxy


@dataclass(frozen=True)
class ResultArrays:
    """Detections of a whole set, in the order of a results file.

    images        (D,) int64, places in image_ids
    categories    (D,) int64, places in category_ids
    boxes_xywh    (D, 4) float64, pixels
    scores        (D,) float64
    image_ids     the ids that `images` points to
    category_ids  the ids that `categories` points to
    """

    images: np.ndarray
    categories: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray
    image_ids: Sequence[Any] = field(repr=False)
    category_ids: Sequence[Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def from_detections(
        cls, detections: Sequence[Detections], image_ids: Sequence[Any], category_ids: Sequence[Any]
    ) -> "ResultArrays":
        """detections[i] belong to image_ids[i], label k to category_ids[k].

        Raises ValueError for unequal numbers, and for labels without a category id.
        """
        check_lengths(detections, image_ids)
        labels = _column([found.labels for found in detections], torch.zeros(0, dtype=torch.int64))
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(category_ids):
            raise ValueError(
                f"detections have labels {labels.min()} to {labels.max()}, expected 0 to {len(category_ids) - 1}, one "
                "for each category id; were they made by a model of other classes?"
            )
        boxes = _column([found.boxes_xyxy for found in detections], torch.zeros(0, 4, dtype=torch.float64))
        boxes[:, 2:] -= boxes[:, :2]  # in double precision, so that the corners can be had back
        scores = _column([found.scores for found in detections], torch.zeros(0, dtype=torch.float64))
        images = np.repeat(np.arange(len(detections)), [found.labels.shape[0] for found in detections])
        return cls(images, labels, boxes, scores, image_ids, category_ids)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], source: str = "results") -> "ResultArrays":
        """The rows of a results file. Raises ValueError naming `source` and the first bad row."""
        if not _are_plain(rows):
            check_coco_results(rows, source)  # rows of unusual kinds may still be right
        images, categories, boxes, scores = _columns(rows)
        image_ids, category_ids = list(dict.fromkeys(images)), list(dict.fromkeys(categories))
        try:
            boxes_xywh = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(rows)).reshape(-1, 4)
            numbers = np.fromiter(scores, np.float64, len(rows))
        except OverflowError:  # an integer beyond all bounds
            check_coco_results(rows, source)
            raise
        places = _places(images, image_ids), _places(categories, category_ids)
        arrays = cls(*places, boxes_xywh, numbers, image_ids, category_ids)
        if not arrays._are_sound():
            check_coco_results(rows, source)
        return arrays

    def check(self, source: str) -> None:
        """Raise ValueError naming `source` and the first row that is not finite or has a negative size."""
        if not self._are_sound():
            check_coco_results(self.rows(), source)

    def _are_sound(self) -> bool:
        boxes, scores = self.boxes_xywh, self.scores
        kinds = {type(value) for value in chain(self.image_ids, self.category_ids)}
        return bool(
            (np.abs(boxes) < LARGEST).all()
            and (np.abs(scores) < LARGEST).all()
            and (boxes[:, 2:] >= 0).all()
            and kinds <= {int, str}
        )

    def rows(self, start: int = 0, stop: int | None = None) -> list[dict[str, Any]]:
        """The rows from `start` to `stop` as dicts of plain values."""
        part = slice(start, stop)
        columns = (self.images, self.categories, self.boxes_xywh, self.scores)
        return [
            {"image_id": self.image_ids[i], "category_id": self.category_ids[k], "bbox": box, "score": score}
            for i, k, box, score in zip(*(column[part].tolist() for column in columns), strict=True)
        ]

    def ranked(self, image_ids: Iterable[Any], category_ids: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
        """For every row, the places (D,) int64 of its ids in these, or -1 where they are not listed."""
        images = _translated(self.images, self.image_ids, image_ids)
        return images, _translated(self.categories, self.category_ids, category_ids)

    def to_detections(
        self,
        image_ids: Sequence[Any],
        category_ids: Sequence[Any],
        class_names: Sequence[str] = (),
        source: str = "results",
    ) -> list[Detections]:
        """One Detections per id of `image_ids`, by decreasing score (equal scores in the order of the rows).

        Raises ValueError, naming `source`, for rows whose image or category is not listed.
        """
        images, labels = self.ranked(image_ids, category_ids)
        unlisted = np.flatnonzero((images < 0) | (labels < 0))
        if len(unlisted):
            number = int(unlisted[0])
            row = self.rows(number, number + 1)[0]
            raise ValueError(
                f"{source}: entry {number} (image_id {row['image_id']!r:.80}, category_id {row['category_id']!r:.80}) "
                "belongs to no image or category of this data set; were the results made on another one?"
            )
        order = stable_order(images, -self.scores)
        # The sum in double precision, so that corners written by from_detections come back bit for bit.
        boxes = xywh_to_xyxy(torch.from_numpy(self.boxes_xywh[order])).float()
        columns = (boxes, torch.from_numpy(self.scores[order]).float(), torch.from_numpy(labels[order]))
        sizes = np.bincount(images, minlength=len(image_ids)).tolist()
        parts = zip(*(column.split(sizes) for column in columns), strict=True)
        # Copies: a part of a column, pickled for another process, would take the whole column along.
        names = tuple(class_names)
        return [Detections(box.clone(), score.clone(), label.clone(), names) for box, score, label in parts]


def check_lengths(detections: Sequence[Detections], image_ids: Sequence[Any]) -> None:
    """Raise ValueError unless there is one Detections per image."""
    if len(detections) != len(image_ids):
        raise ValueError(f"expected one Detections per image, got {len(detections)} for {len(image_ids)} images")


def _column(parts: list[Tensor], nothing: Tensor) -> np.ndarray:
    """All parts in one new array of the type of `nothing`."""
    joined = torch.cat(parts) if parts else nothing
    return joined.detach().to("cpu", nothing.dtype, copy=True).numpy()


def _columns(rows: Sequence[Any]) -> list[list[Any]]:
    return [[row[key] for row in rows] for key in RESULT_KEYS]


def _are_plain(rows: Sequence[Any]) -> bool:
    """Whether the rows are of the kinds that a JSON file gives, each with all that is wanted, of whatever value."""
    try:
        images, categories, boxes, scores = _columns(rows)
        return (
            {type(value) for value in chain(images, categories)} <= {int, str}
            and set(map(type, boxes)) <= {list, tuple}
            and set(map(len, boxes)) <= {4}
            and set(map(type, chain(scores, chain.from_iterable(boxes)))) <= {int, float}
        )
    except (KeyError, TypeError, IndexError):
        return False


def _places(values: Sequence[Any], listed: Sequence[Any]) -> np.ndarray:
    place_of = {value: place for place, value in enumerate(listed)}
    return np.fromiter(map(place_of.__getitem__, values), np.int64, len(values))


def _translated(places: np.ndarray, old: Sequence[Any], new: Iterable[Any]) -> np.ndarray:
    """Places in `old` as places in `new`, -1 for what is not there."""
    place_of = {identifier: place for place, identifier in enumerate(new)}
    return np.array([place_of.get(identifier, -1) for identifier in old], dtype=np.int64)[places]
