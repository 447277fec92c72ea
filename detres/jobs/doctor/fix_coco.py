"""A cleaned copy of a COCO instances file: everything in it stays but what is wrong."""

import json
import os
from pathlib import Path
from typing import Any

from detres.data.annotations import DatasetError
from detres.data.coco import read_number
from detres.data.coco_file import is_id, parse_instances
from detres.files.atomic_file import atomic_file
from detres.jobs.doctor.boxes import describe_box
from detres.jobs.doctor.patient import Cleaning
from detres.jobs.doctor.read_coco import LISTS
from detres.jobs.doctor.records import Split


def fix_coco(split: Split, cleaning: Cleaning, folder: Path, target: Path) -> dict[str, Any]:
    """Write the copy to `folder`, which will be `target`; returns the settings that name it.

    It holds the images in use. Raises DatasetError when the file is not what it was.
    """
    content = parse_instances(split.source, keep_segmentation=True)
    if not isinstance(content, dict):
        raise DatasetError(f"{split.source}: the file has changed meanwhile; run the doctor again")
    lists = {key: content[key] if isinstance(content.get(key), list) else [] for key in LISTS}
    _settle_ids(lists["images"], split, cleaning)
    numbers, categories = _categories(lists["categories"], split, cleaning)
    images = []
    for position, image in enumerate(split.images):
        if position not in cleaning.removed_images:
            entry = lists["images"][image.entry]
            new_hw = cleaning.new_size_hw(position, f"{split.name}: image {image.id!r}")
            height, width = new_hw or image.size_hw or (0, 0)
            images.append({**entry, "height": height, "width": width})
    annotations = _annotations(lists["annotations"], numbers, split, cleaning)
    name = _file_name(split, folder)
    with atomic_file(folder / name) as file:
        made = {**content, "images": images, "annotations": annotations, "categories": categories}
        file.write(json.dumps(made).encode())
    left_out = len(lists["images"]) - len(images) - len(cleaning.removed_images)
    if left_out > 0:
        cleaning.changes.append(f"{split.name}: image entries left out, repeated or not in use: {left_out}")
    limits = {key: "null" for key in ("image_ids", "max_images") if getattr(split.settings, key) is not None}
    return {"annotations": target / name, **limits}


def _file_name(split: Split, folder: Path) -> str:
    """The name that the file had, unless another split has it."""
    name = os.path.basename(split.source)
    return f"{split.name}_{name}" if (folder / name).exists() else name


def _settle_ids(entries: list[Any], split: Split, cleaning: Cleaning) -> None:
    """Images that share an id with another file go: nobody knows whose boxes those are."""
    files: dict[Any, set[str]] = {}
    for entry in entries:
        if isinstance(entry, dict) and is_id(entry.get("id")):
            files.setdefault(entry["id"], set()).add(str(entry.get("file_name")))
    for position, image in enumerate(split.images):
        if len(files[image.id]) > 1 and position not in cleaning.removed_images:
            names = ", ".join(sorted(files[image.id]))
            cleaning.remove_image(position, f"{split.name}: image {image.id!r} removed: the id of {names}")


def _categories(entries: list[Any], split: Split, cleaning: Cleaning) -> tuple[dict[int, int], list[Any]]:
    """The id that replaces each id, and the categories that stay: the first of every id and name."""
    first: dict[str, int] = {}
    numbers: dict[int, int] = {}
    kept = []
    for entry in entries:
        own: Any = entry.get("id") if isinstance(entry, dict) else None
        is_usable = isinstance(own, int) and is_id(own) and isinstance(entry.get("name"), str)
        if is_usable and own not in numbers and entry["name"] not in first:
            first[entry["name"]] = numbers[own] = own
            kept.append(entry)
            continue
        if is_usable and own not in numbers:
            numbers[own] = first[entry["name"]]
            text = f"category {own} joined with {numbers[own]}: both are {entry['name']!r}"
        else:
            text = f"category {own!r} removed: no id of its own, or no name"
        cleaning.changes.append(f"{split.name}: {text}")
    return numbers, kept


def _annotations(entries: list[Any], numbers: dict[int, int], split: Split, cleaning: Cleaning) -> list[Any]:
    """The annotations that stay, with ids of their own and boxes inside the image."""
    row_of = {number: row for row, number in enumerate(split.boxes.entries.tolist())}
    known = {image.id for image in split.images}
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    spare = max((value for value in ids if isinstance(value, int) and is_id(value)), default=0)
    used: set[Any] = set()
    kept: list[Any] = []
    unplaced = 0
    for number, entry in enumerate(entries):
        row = row_of.get(number)
        if row is None:
            if isinstance(entry, dict) and is_id(entry.get("image_id")) and entry["image_id"] in known:
                cleaning.changes.append(f"{split.name}: annotation number {number} removed: unknown class")
            else:
                unplaced += 1
            continue
        if int(split.boxes.images[row]) in cleaning.removed_images:
            continue
        if row in cleaning.removed_boxes:
            text = f"{describe_box(split, row)} removed: {cleaning.removed_boxes[row]}"
            cleaning.changes.append(f"{split.name}: {text}")
            continue
        entry = {**entry, "category_id": numbers[entry["category_id"]]}
        entry = _sound_box(entry, row, split, cleaning)
        if not is_id(entry.get("id")) or entry["id"] in used:
            spare += 1
            cleaning.changes.append(f"{split.name}: annotation number {number} has the id {spare} now")
            entry["id"] = spare
        used.add(entry["id"])
        kept.append(entry)
    if unplaced:
        cleaning.changes.append(f"{split.name}: annotations left out, of images unknown or not in use: {unplaced}")
    return kept


def _sound_box(entry: dict[str, Any], row: int, split: Split, cleaning: Cleaning) -> dict[str, Any]:
    """The annotation with its box cut at the border and a usable area, where these were wrong."""
    position = int(split.boxes.images[row])
    height, width = cleaning.sizes_hw.get(position) or split.images[position].size_hw or (0, 0)
    x1, y1, x2, y2 = split.boxes.boxes_xyxy[row].tolist()
    full = (x2 - x1) * (y2 - y1)
    if row in cleaning.cut_boxes:
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        cleaning.changes.append(f"{split.name}: {describe_box(split, row)} cut at the border of the image")
        entry = {**entry, "bbox": [x1, y1, x2 - x1, y2 - y1]}
    area = read_number(entry.get("area", full))
    is_of_box = row in cleaning.cut_boxes and abs(area - full) < 1
    if "area" in entry and (is_of_box or not 0 < area < 1e30):
        entry = {**entry, "area": (x2 - x1) * (y2 - y1)}
        if not is_of_box:
            cleaning.changes.append(f"{split.name}: the area of {describe_box(split, row)} is now that of its box")
    return entry
