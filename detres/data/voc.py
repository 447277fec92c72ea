"""PASCAL VOC folders: Annotations/*.xml, JPEGImages/, ImageSets/Main/{split}.txt, of any year and for any classes.

The XML gives boxes as 1-based inclusive pixel indices; here they become continuous: x1 - 1, y1 - 1, x2, y2.
Shapes: G boxes of one image, K classes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
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
from detres.data.image_io import read_size_hw
from detres.data.voc_xml import VocAnnotation, VocObject, read_voc_xml

IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class VocDataset:
    """The images of one split of a VOC folder, in the order of the split's file.

    root           for instance VOCdevkit/VOC2007
    split          the name of a file in ImageSets/Main, for instance trainval
    class_names    the classes to use, in this order; objects of others are counted in `drop_report`.
                   None: all that occur in the split's annotations, sorted
    use_difficult  False: difficult objects are `ignore` regions in training. They are always skipped in evaluation
    annotated      False: there are no XML files, as for VOC2012's test images, whose boxes only the evaluation server
                   knows; class_names must then be given
    max_images     only the first ones
    on_bad_box     "drop": annotations that cannot be used are counted; "error": DatasetError

    Image ids are the names of the XML files without suffix; category ids are 1 ... K. Raises DatasetError for a
    folder, split or XML file that is missing or not in VOC's form.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        class_names: Sequence[str] | None = None,
        use_difficult: bool = False,
        annotated: bool = True,
        max_images: int | None = None,
        on_bad_box: str = "drop",
    ) -> None:
        folder = Path(root)
        stems = _read_split(folder, split)[:max_images]
        xml_files = [folder / "Annotations" / f"{stem}.xml" for stem in stems] if annotated else None
        self._read(f"{folder} ({split})", stems, xml_files, image_paths(folder, stems), class_names, use_difficult)
        self._drops.settle(on_bad_box)

    def _read(
        self,
        source: str,
        stems: Sequence[str],
        xml_files: Sequence[Path] | None,
        image_files: Sequence[str],
        class_names: Sequence[str] | None,
        use_difficult: bool,
    ) -> None:
        """Take everything from the annotation files, one for each image; without them, the sizes from the images.

        `source` names the set in messages.
        """
        if xml_files is None:
            entries = [VocAnnotation(read_size_hw(path), []) for path in image_files]
        else:
            entries = [read_voc_xml(path) for path in xml_files]
        self._drops = DropReport(source)
        self._stems = PackedStrings(stems)
        self._files = PackedStrings(image_files)
        self._sizes_hw = np.array([entry.size_hw for entry in entries], dtype=np.int32)
        rows = [
            _Row(image, stem, found)
            for image, (stem, entry) in enumerate(zip(stems, entries, strict=True))
            for found in entry.objects
        ]
        self.class_names = _class_names(class_names, rows, source)
        self.category_ids = tuple(range(1, len(self.class_names) + 1))
        self._pack(rows, use_difficult)

    def __len__(self) -> int:
        return len(self._stems)

    @property
    def drop_report(self) -> dict[str, int]:
        """How many annotations were left out, by reason."""
        return dict(self._drops.counts)

    def drop_messages(self) -> list[str]:
        """One line per reason for which annotations were left out, with the first example."""
        return self._drops.messages()

    def image_id(self, index: int) -> str:
        """The stem of the image's files, for instance "000005"."""
        return str(self._stems[index])

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

    def _pack(self, rows: list["_Row"], use_difficult: bool) -> None:
        """Put the usable objects into flat arrays; `rows` come sorted by image."""
        label_of = {name: label for label, name in enumerate(self.class_names)}
        for row in rows:
            if row.found.name not in label_of:
                self._drops.add("an unknown class", row.describe())
        rows = [row for row in rows if row.found.name in label_of]
        images = np.array([row.image for row in rows], dtype=np.int64)
        inclusive = np.array([row.found.box_1based for row in rows], dtype=np.float64).reshape(-1, 4)
        usable = np.ones(len(rows), dtype=bool)
        # Faults are those of the file's corners: a box drawn with xmin = xmax has no size, though
        # "inclusive" would make it one pixel wide.
        for reason, faulty in box_faults(inclusive, self._sizes_hw[images] + 1).items():
            hits = np.flatnonzero(faulty)
            usable[hits] = False
            if len(hits):
                self._drops.add(reason, rows[hits[0]].describe(), len(hits))

        kept = np.flatnonzero(usable)
        boxes = clip_to_images(inclusive[kept] - [1, 1, 0, 0], self._sizes_hw[images[kept]]).astype(np.float32)
        difficult = np.array([row.found.difficult for row in rows], dtype=bool)[kept]
        self._packed = PackedAnnotations(
            boxes,
            np.array([label_of[row.found.name] for row in rows], dtype=np.int32)[kept],
            np.zeros(len(kept), dtype=bool) if use_difficult else difficult,
            difficult,
            (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            np.searchsorted(images[kept], np.arange(len(self._stems) + 1)),
        )


class _Row(NamedTuple):
    """One object and the image it belongs to."""

    image: int
    stem: str
    found: VocObject

    def describe(self) -> str:
        return f"{self.found.name!r} with corners {list(self.found.box_1based)} in {self.stem}.xml"


def _read_split(folder: Path, split: str) -> list[str]:
    """The image names in ImageSets/Main/{split}.txt (the first word of each line)."""
    sets = folder / "ImageSets" / "Main"
    path = sets / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        there = sorted(file.stem for file in sets.glob("*.txt")) if sets.is_dir() else []
        hint = f"its splits are {there}" if there else "no ImageSets/Main/*.txt is there: is it a VOC folder?"
        raise DatasetError(f"{path}: the split cannot be read ({type(error).__name__}); {hint}") from error
    stems = [line.split()[0] for line in lines if line.strip()]
    if not stems:
        raise DatasetError(f"{path}: the data set is empty: the split lists no images; write one name per line")
    if len(set(stems)) < len(stems):
        repeated = next(stem for i, stem in enumerate(stems) if stem in set(stems[:i]))
        raise DatasetError(f"{path}: image {repeated!r} is listed twice; remove the repeated lines")
    return stems


def image_paths(folder: Path, stems: list[str]) -> list[str]:
    """Where each image is; for one that is missing, where it should be (reading it then says so)."""
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if images is None:
        raise DatasetError(f"{folder}: no image folder; expected one of {', '.join(IMAGE_FOLDERS)} beside Annotations")
    names: dict[str, str] = {}
    for entry in sorted(os.listdir(images)):
        stem, suffix = os.path.splitext(entry)
        if suffix.lower() in IMAGE_SUFFIXES:
            names.setdefault(stem, entry)
    return [str(images / names.get(stem, f"{stem}.jpg")) for stem in stems]


def _class_names(given: Sequence[str] | None, rows: list[_Row], source: str) -> tuple[str, ...]:
    names = tuple(given) if given is not None else tuple(sorted({row.found.name for row in rows}))
    if not names:
        raise DatasetError(f"{source}: no object is annotated, so there are no classes; give class_names")
    if len(set(names)) < len(names):
        raise DatasetError(f"{source}: class_names repeats a name: {list(names)}; list each once")
    return names
