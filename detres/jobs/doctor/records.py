"""A data set as its files have it, mistakes included.

Shapes: N images, B boxes of a split.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from detres.config.data import Dataset

NO_SIZE = 2**31 - 1


class RawImage(NamedTuple):
    """An image: its id, its path, its size where the annotation gives one, its class where it has one.

    entry       its position in the file's list (COCO); repeated ids occur there more than once
    annotation  its XML file (VOC)
    """

    id: Any
    path: str
    size_hw: tuple[int, int] | None = None
    entry: int = -1
    label: int = -1
    annotation: str = ""


@dataclass(frozen=True)
class RawBoxes:
    """The boxes of a split.

    corners    (B, 4) float64, as the file has them; NaN where it has no numbers
    images     (B,) int64, positions in the split's images
    labels     (B,) int64, 0 ... K-1
    ignore     (B,) bool: crowd or difficult
    entries    (B,) int64: positions in COCO's list of annotations, or among the objects of the image's XML
    inclusive  corners are 1-based pixel indices (VOC)
    """

    corners: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    entries: np.ndarray
    inclusive: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """(B, 4), pixels, continuous."""
        return self.corners - np.array([1, 1, 0, 0]) if self.inclusive else self.corners


def no_boxes() -> RawBoxes:
    """The boxes of a split without any."""
    return pack_boxes([], [], [], [], [])


def pack_boxes(
    corners: list[Any], images: list[int], labels: list[int], ignore: list[bool], entries: list[int], **options: bool
) -> RawBoxes:
    """RawBoxes of lists."""
    return RawBoxes(
        np.array(corners, dtype=np.float64).reshape(-1, 4),
        np.array(images, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(ignore, dtype=bool),
        np.array(entries, dtype=np.int64),
        **options,
    )


@dataclass
class Split:
    """One entry of `data`.

    name      train, train.0, train.1, val, test; `role` is the part before the dot
    settings  the entry
    source    the annotation file or folder, for messages
    read      gives the pixels of an image that is no file of its own, by its position
    annotated  False: nobody here knows its objects (VOC2012's test images)
    held_out   positions of the training images that data.val takes; None where it takes none of any training split
    """

    name: str
    settings: Dataset
    source: str
    images: list[RawImage] = field(default_factory=list)
    boxes: RawBoxes = field(default_factory=no_boxes)
    class_names: tuple[str, ...] = ()
    read: Callable[[int], np.ndarray] | None = None
    annotated: bool = True
    held_out: frozenset[int] | None = None

    @property
    def role(self) -> str:
        """train, val or test, whatever is held out."""
        return self.name.partition(".")[0]

    def role_of(self, image: int) -> str:
        """train, val or test; images that are held out are of val."""
        return "val" if image in (self.held_out or ()) else self.role

    def of_role(self, role: str) -> np.ndarray:
        """Which images (N,) bool are of a role."""
        return np.array([self.role_of(image) == role for image in range(len(self.images))], dtype=bool)

    def describe(self, image: int) -> str:
        """An image in words."""
        found = self.images[image]
        held_out = ", held out" if image in (self.held_out or ()) else ""
        return f"{self.name}{held_out}: image {found.id!r} ({found.path})"

    def class_name(self, label: int) -> str:
        """The name of a label."""
        return self.class_names[label]
