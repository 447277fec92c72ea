"""Annotations of a data set in packed arrays, and what went wrong while reading them.

A list of a million Python objects is copied page by page into every worker process as reference counts are
touched; flat arrays with offsets are shared. Shapes: N images, B boxes in all, G boxes of one image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


class DatasetError(ValueError):
    """A data set that cannot be used; the message names the file, the trouble and the remedy."""


@dataclass(frozen=True)
class Annotations:
    """The objects of one image.

    boxes_xyxy  (G, 4) float32, pixels, inside the image
    labels      (G,) int64, 0 ... K-1
    ignore      (G,) bool: crowd, or difficult where those are not learned; neither object nor background
    difficult   (G,) bool: VOC's flag
    area        (G,) float32: the file's area where it has one (COCO: of the mask), else that of the box
    """

    boxes_xyxy: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    difficult: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Annotations":
        """The objects that a mask, a slice or an index array chooses."""
        return Annotations(
            self.boxes_xyxy[index], self.labels[index], self.ignore[index], self.difficult[index], self.area[index]
        )


class DetectionDataset(Protocol):
    """What the rest of the package asks of a detection data set, the user's own included."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The id that the file gives each label; it occurs outside the reader only in results and ground truth."""

    @property
    def drop_report(self) -> dict[str, int]:
        """How many annotations were left out, by reason."""

    def __len__(self) -> int: ...

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image."""

    def file(self, index: int) -> str:
        """The path of an image."""

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image as annotated."""

    def annotations(self, index: int) -> Annotations:
        """The objects of an image."""

    def ground_truth_coco(self) -> dict[str, Any]:
        """The whole ground truth as a COCO dict (ids of the file), for evaluation."""


def drop_messages(dataset: DetectionDataset) -> list[str]:
    """One line per reason for which annotations of `dataset` were left out, with an example where it has one."""
    own = getattr(dataset, "drop_messages", None)
    if own is not None:
        return list(own())
    return [f"{count} annotations with {reason}" for reason, count in dataset.drop_report.items()]


class PackedStrings(Sequence[str]):
    """Strings in one byte array with offsets."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in strings]
        self._offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(text) for text in encoded], out=self._offsets[1:])
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start, end = self._offsets[index], self._offsets[index + 1]
        return self._bytes[start:end].tobytes().decode("utf-8", "surrogateescape")


class PackedIds(Sequence[int | str]):
    """Image ids: an int64 array when all are integers, else packed strings."""

    def __init__(self, ids: Sequence[int | str]) -> None:
        integers = all(isinstance(value, int) for value in ids)
        self._ids: np.ndarray | PackedStrings = (
            np.array(ids, dtype=np.int64) if integers else PackedStrings(str(value) for value in ids)
        )

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: Any) -> Any:
        value = self._ids[index]
        return int(value) if isinstance(value, np.integer) else value


@dataclass(frozen=True)
class PackedAnnotations:
    """The objects of all images, sorted by image; offsets (N + 1,) say where each image's begin.

    boxes_xyxy (B, 4) float32, labels (B,) int32, flags (B,) bool, area (B,) float32.
    """

    boxes_xyxy: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    difficult: np.ndarray
    area: np.ndarray
    offsets: np.ndarray

    def __getitem__(self, image: int) -> Annotations:
        rows = slice(self.offsets[image], self.offsets[image + 1])
        return Annotations(
            self.boxes_xyxy[rows],
            self.labels[rows].astype(np.int64),
            self.ignore[rows],
            self.difficult[rows],
            self.area[rows],
        )


@dataclass
class DropReport:
    """Counts of left-out annotations by reason, with the first example of each."""

    source: str
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count `count` annotations that were left out for `reason`; the first `example` is kept."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.examples.setdefault(reason, example)

    def messages(self) -> list[str]:
        """One line per reason."""
        return [
            f"{self.source}: {count} annotation{'s' if count > 1 else ''} with {reason} "
            f"(first: {self.examples[reason]})"
            for reason, count in self.counts.items()
        ]

    def settle(self, on_bad_box: str) -> None:
        """With "error", raise DatasetError if anything was left out; "drop" goes on."""
        if on_bad_box not in ("drop", "error"):
            raise ValueError(f'on_bad_box must be "drop" or "error", got {on_bad_box!r}')
        if on_bad_box == "error" and self.counts:
            lines = "\n  ".join(self.messages())
            raise DatasetError(f"{lines}\n  Correct the file, or set data.on_bad_box to drop to go on without them")


def clip_to_images(boxes_xyxy: np.ndarray, sizes_hw: np.ndarray) -> np.ndarray:
    """Boxes (B, 4) cut at the borders of their images (B, 2) height, width."""
    limits = sizes_hw[:, [1, 0, 1, 0]].astype(boxes_xyxy.dtype)
    return np.clip(boxes_xyxy, 0, limits)


def box_faults(boxes_xyxy: np.ndarray, sizes_hw: np.ndarray) -> dict[str, np.ndarray]:
    """Which boxes (B, 4) cannot be learned, as one exclusive mask (B,) per reason."""
    with np.errstate(invalid="ignore"):
        not_finite = ~np.isfinite(boxes_xyxy).all(axis=1)
        no_size = ~not_finite & (boxes_xyxy[:, 2:] <= boxes_xyxy[:, :2]).any(axis=1)
        clipped = clip_to_images(boxes_xyxy, sizes_hw)
        vanishes = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    return {
        "a box that is not four finite numbers": not_finite,
        "a box of zero or negative size": no_size,
        "a box outside the image": vanishes & ~not_finite & ~no_size,
    }
