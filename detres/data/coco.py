"""COCO instances files (images, annotations, categories in one JSON).

Shapes: N images, B boxes in all, K classes. The file's xywh boxes and its ids do not leave this module, except in
the ground truth and the results that are written for evaluation.
"""

import os
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from detres.data.annotations import (
    Annotations,
    DropReport,
    PackedAnnotations,
    PackedIds,
    PackedStrings,
    box_faults,
    clip_to_images,
)
from detres.data.coco_file import choose_images, file_names, load_instances, read_categories, read_sizes, unique_ids


class CocoDataset:
    """The images of a COCO instances file, ordered by id, with their boxes.

    annotations  the JSON file
    images       the folder that its file names are relative to
    image_ids    only these images
    max_images   only the first ones
    on_bad_box   "drop": annotations that cannot be used are counted in `drop_report`; "error": DatasetError

    Labels are the categories in the order of their ids, whatever the gaps. Boxes are clipped to the image for
    training; the ground truth for evaluation keeps the file's numbers. Raises DatasetError when the file is not
    a COCO instances file, is empty, or uses an id twice.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        image_ids: Sequence[int | str] | None = None,
        max_images: int | None = None,
        on_bad_box: str = "drop",
    ) -> None:
        self._path, self._root = os.fspath(annotations), os.fspath(images)
        self._drops = DropReport(self._path)
        content = load_instances(self._path)
        self.category_ids, self.class_names = read_categories(content["categories"], self._path)
        all_ids = unique_ids(content["images"], "image", self._path)
        chosen = choose_images(content["images"], all_ids, image_ids, max_images, self._path)
        self._ids = PackedIds([entry["id"] for entry in chosen])
        self._files = PackedStrings(file_names(chosen, self._path))
        self._sizes_hw = read_sizes(chosen, self._path)
        self._pack(content["annotations"], chosen, all_ids)
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

    def image_id(self, index: int) -> int | str:
        """The file's id of an image."""
        return self._ids[index]

    def file(self, index: int) -> str:
        """The path of an image."""
        return os.path.join(self._root, self._files[index])

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image as annotated."""
        height, width = self._sizes_hw[index]
        return int(height), int(width)

    def annotations(self, index: int) -> Annotations:
        """The objects of an image; crowds are `ignore`."""
        return self._packed[index]

    def ground_truth_coco(self) -> dict[str, Any]:
        """The annotations in use as a COCO dict: ids of the images and categories as in the file, boxes unclipped."""
        owners = np.repeat(np.arange(len(self)), np.diff(self._packed.offsets)).tolist()
        columns = (self._bbox_xywh.tolist(), self._packed.labels.tolist(), self._packed.ignore.tolist())
        areas = self._area.tolist()
        return {
            "images": [
                {"id": self._ids[i], "file_name": self._files[i], "height": int(h), "width": int(w)}
                for i, (h, w) in enumerate(self._sizes_hw)
            ],
            "categories": [
                {"id": number, "name": name} for number, name in zip(self.category_ids, self.class_names, strict=True)
            ],
            "annotations": [
                {
                    "id": row + 1,  # pycocotools takes id 0 for "not matched"
                    "image_id": self._ids[owner],
                    "category_id": self.category_ids[label],
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(crowd),
                }
                for row, (owner, bbox, label, crowd, area) in enumerate(zip(owners, *columns, areas, strict=True))
            ],
        }

    def _pack(self, entries: list[Any], chosen: list[Any], all_ids: set[Any]) -> None:
        """Put the usable annotations of the chosen images into flat arrays, sorted by image."""
        label_of = {number: label for label, number in enumerate(self.category_ids)}
        index_of = {entry["id"]: i for i, entry in enumerate(chosen)}
        known = [entry for entry in entries if self._is_known(entry, index_of, label_of, all_ids)]
        images = np.array([index_of[entry["image_id"]] for entry in known], dtype=np.int64)
        labels = np.array([label_of[entry["category_id"]] for entry in known], dtype=np.int32)
        xywh = np.array([read_bbox(entry) for entry in known], dtype=np.float64).reshape(-1, 4)
        area = np.array([read_number(entry.get("area")) for entry in known], dtype=np.float64)
        crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in known], dtype=bool)

        with np.errstate(over="ignore", invalid="ignore"):
            xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            area = np.where(np.isnan(area), xywh[:, 2] * xywh[:, 3], area)
            area_32 = area.astype(np.float32)
        faults = box_faults(xyxy, self._sizes_hw[images])
        faults["an area beyond all bounds"] = ~np.isfinite(area_32) & ~np.any(list(faults.values()), axis=0)
        usable = np.ones(len(known), dtype=bool)
        for reason, faulty in faults.items():
            rows = np.flatnonzero(faulty)
            usable[rows] = False
            if len(rows):
                self._drops.add(reason, describe_annotation(known[rows[0]]), len(rows))
        order = np.flatnonzero(usable)
        order = order[np.argsort(images[order], kind="stable")]

        self._bbox_xywh = xywh[order]
        self._area = area[order]
        self._packed = PackedAnnotations(
            clip_to_images(xyxy[order], self._sizes_hw[images[order]]).astype(np.float32),
            labels[order],
            crowd[order],
            np.zeros(len(order), dtype=bool),
            area_32[order],
            np.searchsorted(images[order], np.arange(len(chosen) + 1)),
        )

    def _is_known(self, entry: dict[str, Any], index_of: Any, label_of: Any, all_ids: set[Any]) -> bool:
        """Whether an annotation belongs to a chosen image and a listed category; what belongs nowhere is counted."""
        image, category = entry.get("image_id"), entry.get("category_id")
        if not _is_in(image, all_ids):
            self._drops.add("an unknown image", describe_annotation(entry))
            return False
        if not _is_in(category, label_of):
            self._drops.add("an unknown category", describe_annotation(entry))
            return False
        return image in index_of


def _is_in(key: Any, known: Any) -> bool:
    return isinstance(key, int | str) and key in known


def read_number(value: Any) -> float:
    """A number of the file; NaN for anything else, infinity for one beyond all bounds."""
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:  # an integer of more than 308 digits
        return float("inf")


def read_bbox(entry: dict[str, Any]) -> list[float]:
    """The annotation's box; four NaN where it is not a list of four numbers."""
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        return [float("nan")] * 4
    return [read_number(value) for value in bbox]


def describe_annotation(entry: dict[str, Any]) -> str:
    """An annotation in one line, for a message."""
    shown = [f"{key} {reprlib.repr(entry.get(key))}" for key in ("image_id", "category_id")]
    shown += [f"{key} {reprlib.repr(entry[key])}" for key in ("bbox", "area") if key in entry]
    return f"annotation {reprlib.repr(entry.get('id'))}: {', '.join(shown)}"
