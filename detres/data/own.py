"""Images of the user's own: a COCO instances file, or a folder of VOC's XML files, with a folder of images.

Labelling programs write either. Of such XML files no layout is asked: their folder may have any name, and they may lie
in folders below it.
"""

import os
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from detres.data.annotations import DatasetError, DetectionDataset
from detres.data.coco import CocoDataset
from detres.data.voc import IMAGE_SUFFIXES, XmlFiles


class XmlFolderDataset(XmlFiles):
    """The images that have an XML file in or below the folder `annotations`, in the order of the files' names.

    annotations  the folder of the XML files, each named as its image
    images       the folder in or below which the images are; those without an XML file are not used

    The rest is as in VocDataset. Image ids are the XML files' paths below `annotations`, without suffix. Raises
    DatasetError when there is no XML file, or when not one of them has its image.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        use_difficult: bool = False,
        on_bad_box: str = "drop",
    ) -> None:
        folder = Path(annotations)
        stems, xml_files = find_xml_files(folder)
        super().__init__(
            str(folder),
            stems,
            xml_files,
            find_images(Path(images), stems),
            class_names=class_names,
            use_difficult=use_difficult,
            on_bad_box=on_bad_box,
        )


def open_own_data(
    annotations: str | os.PathLike[str], images: str | os.PathLike[str], *, on_bad_box: str = "drop"
) -> DetectionDataset:
    """The data set in COCO's form when `annotations` is a file, in VOC's when it is a folder."""
    if Path(annotations).is_dir():
        return XmlFolderDataset(annotations, images, on_bad_box=on_bad_box)
    return CocoDataset(annotations, images, on_bad_box=on_bad_box)


def hold_out(image_ids: Iterable[int | str], share: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images to train on and of those held out, both rising.

    The `share` of the images whose ids have the smallest hashes is held out, at least one: the choice depends on
    nothing else, and hardly changes when images are added. Raises DatasetError for fewer than two images.
    """
    hashes = [sha256(str(image_id).encode("utf-8", "surrogateescape")).digest() for image_id in image_ids]
    if len(hashes) < 2:
        raise DatasetError(
            f"data.val: expected at least 2 training images, to hold some of them out, found {len(hashes)}; add "
            "images, or name validation data by data.val.annotations"
        )
    count = min(max(round(share * len(hashes)), 1), len(hashes) - 1)
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    return np.array(sorted(order[count:]), dtype=np.int64), np.array(sorted(order[:count]), dtype=np.int64)


def find_xml_files(folder: Path) -> tuple[list[str], list[Path]]:
    """The XML files in or below a folder, and the image id of each. Raises DatasetError where there is none."""
    xml_files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".xml")
    if not xml_files:
        raise DatasetError(f"{folder}: no *.xml there; expected one for each image, as labelling programs write")
    return [path.relative_to(folder).with_suffix("").as_posix() for path in xml_files], xml_files


def find_images(images: Path, stems: Sequence[str]) -> list[str]:
    """Where each image is: at its XML file's path below the folder, or else under its name anywhere in it.

    For one that is missing, where it should be (reading it then says so). Raises DatasetError when all are.
    """
    by_path: dict[str, Path] = {}
    by_name: dict[str, Path] = {}
    for path in sorted(images.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            by_path.setdefault(path.relative_to(images).with_suffix("").as_posix(), path)
            by_name.setdefault(path.stem, path)
    found = [by_path.get(stem) or by_name.get(stem.rpartition("/")[2]) for stem in stems]
    if not any(found):
        raise DatasetError(
            f"{images}: none of the {len(stems)} annotated images is there (the first: {stems[0]}.jpg); "
            f"expected images with the names of the XML files, ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    return [str(path or images / f"{stem}.jpg") for path, stem in zip(found, stems, strict=True)]
