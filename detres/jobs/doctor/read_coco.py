"""Reading a COCO instances file to the end, whatever is wrong in it."""

import os
import reprlib
from collections.abc import Sequence
from typing import Any

from detres import wiring
from detres.config.data import CocoDataset
from detres.data.annotations import DatasetError
from detres.data.coco import describe_annotation, read_bbox, read_number
from detres.data.coco_file import is_id, parse_instances
from detres.jobs.doctor.findings import Findings
from detres.jobs.doctor.records import RawImage, Split, pack_boxes

LISTS = ("images", "annotations", "categories")


def read_coco(settings: CocoDataset, name: str, findings: Findings) -> Split:
    """The split as its file has it; what is wrong with files, entries and ids goes to `findings`."""
    path = str(wiring.data_root() / settings.annotations)
    split = Split(name, settings, path)
    try:
        content = parse_instances(path)
    except DatasetError as error:
        findings.add("annotation_files", str(error))
        return split
    images, annotations, categories = (_entries(content, key, split, findings) for key in LISTS)
    label_of = _read_categories(categories, split, findings)
    everything = _read_images(images, split, findings)
    split.images = _choose(everything, settings, split, findings)
    _check_annotation_ids(annotations, split, findings)
    _read_boxes(annotations, everything, label_of, split, findings)
    return split


def _entries(content: Any, key: str, split: Split, findings: Findings) -> list[tuple[int, dict[str, Any]]]:
    """The objects of one of the file's lists, with their positions."""
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        found = "nothing" if rows is None else type(rows).__name__
        findings.add("annotation_files", f"{split.source}: expected a list of objects under {key!r}, got {found}")
        return []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            text = f"{split.source}: {key} number {number} is no object: {reprlib.repr(row)}"
            findings.add("annotation_files", text)
    if not rows and key != "annotations":
        findings.add("annotation_files", f"{split.source}: {key!r} is an empty list")
    return [(number, row) for number, row in enumerate(rows) if isinstance(row, dict)]


def _read_categories(entries: Sequence[tuple[int, Any]], split: Split, findings: Findings) -> dict[int, int]:
    """The label of each category id; `split` gets the names."""
    names: dict[int, str] = {}
    for _, entry in entries:
        number, name = entry.get("id"), entry.get("name")
        shown = f"{split.name}: category {reprlib.repr(number)}, {reprlib.repr(name)}"
        if not isinstance(number, int) or not is_id(number) or not isinstance(name, str):
            findings.add("categories", f"{shown}: no integer id or no name")
        elif number in names:
            findings.add("categories", f"{shown}: the id is also that of {names[number]!r}")
        else:
            if name in names.values():
                findings.add("categories", f"{shown}: another category has this name too")
            names[number] = name
    ordered = [names[number] for number in sorted(names)]
    split.class_names = tuple(dict.fromkeys(ordered))
    return {number: split.class_names.index(name) for number, name in names.items()}


def _read_images(entries: Sequence[tuple[int, Any]], split: Split, findings: Findings) -> list[RawImage]:
    """All images that can be told apart and have a file."""
    assert isinstance(split.settings, CocoDataset), "read_coco makes no other"
    root = str(wiring.data_root() / split.settings.images)
    found: dict[Any, RawImage] = {}
    id_of_file: dict[str, Any] = {}
    for number, entry in entries:
        own, file = entry.get("id"), entry.get("file_name")
        where = f"{split.name}: image number {number} ({reprlib.repr(file)})"
        if not is_id(own):
            findings.add("image_ids", f"{where}: no usable id: {reprlib.repr(own)}")
            continue
        if own in found:
            findings.add("image_ids", f"{where}: id {own!r} is also that of {found[own].path}")
            continue
        if not isinstance(file, str) or not file or "\0" in file:
            findings.add("image_entries", f"{where}: image {own!r} has no file name")
            file = ""
        sides = (entry.get("height"), entry.get("width"))
        size = sides if all(isinstance(side, int) and 0 < side < 2**31 for side in sides) else None
        if size is None:
            text = f"{where}: image {own!r} needs a positive height and width, got {reprlib.repr(sides)}"
            findings.add("image_entries", text)
        path = os.path.join(root, file) if file else ""
        if file and (twin := id_of_file.setdefault(os.path.normpath(path), own)) != own:
            findings.add("files_twice", f"{where}: both image {twin!r} and image {own!r}")
        found[own] = RawImage(own, path, size, number)
    return list(found.values())


def _choose(images: list[RawImage], settings: CocoDataset, split: Split, findings: Findings) -> list[RawImage]:
    """The images in use, in the order of training: by id, integers before strings."""
    if settings.image_ids is not None:
        known = {image.id for image in images}
        for number in settings.image_ids:
            if number not in known:
                findings.add("image_ids", f"{split.name}: image_ids names {number}, which {split.source} does not list")
        wanted = set(settings.image_ids)
        images = [image for image in images if image.id in wanted]
    return sorted(images, key=lambda image: (isinstance(image.id, str), image.id))[: settings.max_images]


def _check_annotation_ids(entries: Sequence[tuple[int, Any]], split: Split, findings: Findings) -> None:
    seen: set[Any] = set()
    for number, entry in entries:
        if "id" not in entry:
            continue  # nothing needs them
        own = entry["id"]
        where = f"{split.name}: annotation number {number}"
        if not is_id(own):
            findings.add("annotation_ids", f"{where}: no usable id: {reprlib.repr(own)}")
        elif own in seen:
            findings.add("annotation_ids", f"{where}: id {own!r} occurs before")
        else:
            seen.add(own)


def _read_boxes(
    entries: Sequence[tuple[int, Any]],
    images: Sequence[RawImage],
    label_of: dict[int, int],
    split: Split,
    findings: Findings,
) -> None:
    """The boxes of the images in use."""
    known = {image.id for image in images}
    index_of = {image.id: index for index, image in enumerate(split.images)}
    kept = []
    for number, entry in entries:
        image, category = entry.get("image_id"), entry.get("category_id")
        if not is_id(image) or image not in known:
            findings.add("unknown_images", f"{split.name}: {describe_annotation(entry)}")
        elif not is_id(category) or category not in label_of:
            findings.add("unknown_categories", f"{split.name}: {describe_annotation(entry)}")
        elif image in index_of:
            kept.append((number, entry))
            area = read_number(entry.get("area", 1))
            if not 0 < area < 1e30:
                findings.add("areas", f"{split.name}: {describe_annotation(entry)}")
    xywh = [read_bbox(entry) for _, entry in kept]
    split.boxes = pack_boxes(
        [[x, y, x + w, y + h] for x, y, w, h in xywh],
        [index_of[entry["image_id"]] for _, entry in kept],
        [label_of[entry["category_id"]] for _, entry in kept],
        [bool(entry.get("iscrowd", 0)) for _, entry in kept],
        [number for number, _ in kept],
    )
