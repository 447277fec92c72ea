"""Cleaned copies of XML files: a VOC folder with the list of a split and a link to its images, or just the files."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detres.data.annotations import DatasetError
from detres.data.voc_xml import parse_xml
from detres.files.atomic_file import atomic_file, write_text_atomically
from detres.jobs.doctor.boxes import describe_box
from detres.jobs.doctor.patient import Cleaning
from detres.jobs.doctor.read_voc import CORNERS
from detres.jobs.doctor.records import Split

_SOURCE = "source.txt"


def fix_voc(split: Split, cleaning: Cleaning, folder: Path, target: Path) -> dict[str, Any]:
    """Write the copy to `folder`, which will be `target`; returns the settings that name it."""
    root = _root(split, folder)
    for position, image in enumerate(split.images):
        if os.path.basename(image.id) != image.id and position not in cleaning.removed_images:
            # The copy would lie beside its folder.
            cleaning.remove_image(position, f"{split.name}: image {image.id!r} removed: its name in the list is a path")
    stems = _write_xml_files(split, cleaning, root / "Annotations")
    settings: Any = split.settings
    lists = root / "ImageSets" / "Main"
    name = settings.split if not (lists / f"{settings.split}.txt").exists() else f"{split.name}_{settings.split}"
    write_text_atomically(lists / f"{name}.txt", "".join(f"{stem}\n" for stem in stems))
    _link_images(split, root, cleaning)
    found = {"root": target / root.name} | ({"split": name} if name != settings.split else {})
    return found | ({"max_images": "null"} if settings.max_images is not None else {})


def fix_xml_folder(split: Split, cleaning: Cleaning, folder: Path, target: Path) -> dict[str, Any]:
    """The same for XML files of the user's own: they lie below the new folder as they did below theirs."""
    name = Path(os.path.abspath(split.source)).name
    name = f"{split.name}_{name}" if (folder / name).exists() else name
    _write_xml_files(split, cleaning, folder / name)
    return {"annotations": target / name}


def _write_xml_files(split: Split, cleaning: Cleaning, destination: Path) -> list[str]:
    """A file for each image that stays; returns their names. Raises ValueError when there is none."""
    stems = []
    rows_of: dict[int, list[int]] = {}
    for row, image in enumerate(split.boxes.images.tolist()):
        rows_of.setdefault(image, []).append(row)
    for position, image in enumerate(split.images):
        if position in cleaning.removed_images:
            continue
        try:
            tree = parse_xml(Path(image.annotation))
        except DatasetError as error:
            cleaning.remove_image(position, f"{split.name}: image {image.id!r} removed: {error}")
            continue
        _clean(tree, position, rows_of.get(position, []), split, cleaning)
        with atomic_file(destination / f"{image.id}.xml") as file:
            file.write(ElementTree.tostring(tree, encoding="utf-8") + b"\n")
        stems.append(image.id)
    if not stems:
        raise ValueError(f"no usable image would be left in {split.name}")
    return stems


def _root(split: Split, folder: Path) -> Path:
    """A folder of the name that the data set's has; another one for another data set of that name."""
    source = os.path.abspath(split.source)
    for name in (Path(source).name, f"{split.name}_{Path(source).name}"):
        marker = folder / name / _SOURCE
        if not marker.exists():
            write_text_atomically(marker, f"cleaned from {source}\n")
            return marker.parent
        if marker.read_text(encoding="utf-8") == f"cleaned from {source}\n":
            return marker.parent
    raise AssertionError("split names are unique")


def _clean(tree: ElementTree.Element, position: int, rows: list[int], split: Split, cleaning: Cleaning) -> None:
    """Put the image's size in, take faulty objects out, and cut boxes at the border."""
    where = f"{split.name}: {split.images[position].id}.xml"
    if (size_hw := cleaning.new_size_hw(position, where)) is not None:
        for side, value in zip(("height", "width"), size_hw, strict=True):
            _set(tree, ("size", side), str(value))
    objects = tree.findall("object")
    for row in rows:
        entry = objects[split.boxes.entries[row]]
        if row in cleaning.removed_boxes:
            tree.remove(entry)
            cleaning.changes.append(f"{where}: {describe_box(split, row)} removed: {cleaning.removed_boxes[row]}")
        elif row in cleaning.cut_boxes:
            height, width = size_hw or split.images[position].size_hw or (0, 0)
            limits = (width, height, width, height)
            for corner, value, limit in zip(CORNERS, split.boxes.corners[row].tolist(), limits, strict=True):
                _set(entry, ("bndbox", corner), f"{min(max(value, 1.0), float(limit)):g}")
            cleaning.changes.append(f"{where}: {describe_box(split, row)} cut at the border of the image")
    for number, entry in enumerate(objects):
        if not (entry.findtext("name") or "").strip():
            tree.remove(entry)
            cleaning.changes.append(f"{where}: object number {number} removed: it has no name")


def _set(parent: ElementTree.Element, path: tuple[str, ...], text: str) -> None:
    """The text of the element at `path`, which is made where it is missing."""
    for tag in path:
        found = parent.find(tag)
        parent = ElementTree.SubElement(parent, tag) if found is None else found
    parent.text = text


def _link_images(split: Split, root: Path, cleaning: Cleaning) -> None:
    source = Path(os.path.abspath(split.images[0].path)).parent
    link = root / source.name
    if not link.is_symlink():
        with suppress(OSError, NotImplementedError):
            link.symlink_to(source, target_is_directory=True)
            return
        text = f"no link could be made: put the images of {source} beside Annotations"
        cleaning.changes.append(f"{split.name}: {text}")
