"""Detection data that are image files with objects, however these were found: the common half of the readers.

Shapes: N images, K classes.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from detres.data.annotations import (
    Annotations,
    DatasetError,
    DropReport,
    PackedAnnotations,
    PackedStrings,
    box_faults,
    clip_to_images,
)


class ObjectRow(NamedTuple):
    """One object as a file has it.

    image      the number of its image
    corners    x1, y1, x2, y2 as in the file; NaN where they are no numbers
    source     the file (and line) that says so
    """

    image: int
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    source: str

    def describe(self) -> str:
        """The object for a message."""
        return f"{self.name!r} with corners {list(self.corners)} in {self.source}"


class AnnotatedFiles:
    """Image files with their objects.

    source         what they are, for messages
    ids, files     of every image
    sizes_hw       (N, 2) height and width of every image
    rows           the objects, sorted by image
    first_pixel    the index that the corners in the rows give the first pixel, 0 or 1. Corners are inclusive pixels
    class_names    the classes to use, in this order; objects of others are counted. None: those that occur, sorted
    use_difficult  False: difficult objects are `ignore` regions in training
    on_bad_box     "drop": annotations that cannot be used are counted; "error": DatasetError

    Category ids are 1 ... K.
    """

    def __init__(
        self,
        source: str,
        ids: Sequence[str],
        files: Sequence[str],
        sizes_hw: Sequence[tuple[int, int]],
        rows: Sequence[ObjectRow],
        *,
        first_pixel: int,
        class_names: Sequence[str] | None = None,
        use_difficult: bool = False,
        on_bad_box: str = "drop",
    ) -> None:
        self._drops = DropReport(source)
        self._ids, self._files = PackedStrings(ids), PackedStrings(files)
        self._sizes_hw = np.array(sizes_hw, dtype=np.int32).reshape(-1, 2)
        self.class_names = _class_names(class_names, rows, source)
        self.category_ids = tuple(range(1, len(self.class_names) + 1))
        self._pack(rows, first_pixel, use_difficult)
        self._drops.settle(on_bad_box)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def drop_report(self) -> dict[str, int]:
        """How many annotations were left out, by reason."""
        return dict(self._drops.counts)

    def drop_messages(self) -> list[str]:
        """One line per reason for which annotations were left out, with the first example."""
        return self._drops.messages()

    def image_id(self, index: int) -> str:
        """What the annotations call an image, for instance "000005"."""
        return str(self._ids[index])

    def file(self, index: int) -> str:
        """The path of an image."""
        return str(self._files[index])

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image as annotated."""
        height, width = self._sizes_hw[index]
        return int(height), int(width)

    def annotations(self, index: int) -> Annotations:
        """The objects of an image; difficult ones are `ignore` unless they are used."""
        return self._packed[index]

    def ground_truth_coco(self) -> dict[str, Any]:
        """The ground truth as a COCO dict.

        COCO has no "difficult"; such objects carry iscrowd 1 (and difficult 1), so that COCO's metrics neither
        miss them nor count what is found there as false.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in range(len(self)):
            height, width = self.size_hw(i)
            name = os.path.basename(self.file(i))
            images.append({"id": self.image_id(i), "file_name": name, "height": height, "width": width})
            found = self.annotations(i)
            for (x1, y1, x2, y2), label, difficult in zip(
                found.boxes_xyxy.tolist(), found.labels.tolist(), found.difficult.tolist(), strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": self.image_id(i),
                        "category_id": self.category_ids[label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": int(difficult),
                        "difficult": int(difficult),
                    }
                )
        named = zip(self.category_ids, self.class_names, strict=True)
        categories = [{"id": number, "name": name} for number, name in named]
        return {"images": images, "categories": categories, "annotations": annotations}

    def _pack(self, rows: Sequence[ObjectRow], first_pixel: int, use_difficult: bool) -> None:
        """Put the usable objects into flat arrays; `rows` come sorted by image."""
        label_of = {name: label for label, name in enumerate(self.class_names)}
        for row in rows:
            if row.name not in label_of:
                self._drops.add("an unknown class", row.describe())
        rows = [row for row in rows if row.name in label_of]
        images = np.array([row.image for row in rows], dtype=np.int64)
        inclusive = np.array([row.corners for row in rows], dtype=np.float64).reshape(-1, 4)
        usable = np.ones(len(rows), dtype=bool)
        # Faults are those of the file's corners: a box drawn with xmin = xmax has no size, though
        # "inclusive" would make it one pixel wide.
        for reason, faulty in box_faults(inclusive, self._sizes_hw[images] + first_pixel).items():
            hits = np.flatnonzero(faulty)
            usable[hits] = False
            if len(hits):
                self._drops.add(reason, rows[hits[0]].describe(), len(hits))

        kept = np.flatnonzero(usable)
        continuous = inclusive[kept] + [0, 0, 1, 1] - first_pixel
        boxes = clip_to_images(continuous, self._sizes_hw[images[kept]]).astype(np.float32)
        difficult = np.array([row.difficult for row in rows], dtype=bool)[kept]
        self._packed = PackedAnnotations(
            boxes,
            np.array([label_of[row.name] for row in rows], dtype=np.int32)[kept],
            np.zeros(len(kept), dtype=bool) if use_difficult else difficult,
            difficult,
            (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            np.searchsorted(images[kept], np.arange(len(self._ids) + 1)),
        )


def _class_names(given: Sequence[str] | None, rows: Sequence[ObjectRow], source: str) -> tuple[str, ...]:
    names = tuple(given) if given is not None else tuple(sorted({row.name for row in rows}))
    if not names:
        raise DatasetError(f"{source}: no object is annotated, so there are no classes; give class_names")
    if len(set(names)) < len(names):
        raise DatasetError(f"{source}: class_names repeats a name: {list(names)}; list each once")
    return names
