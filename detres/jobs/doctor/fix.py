"""A cleaned copy of the annotations in a new folder; the data sets themselves are never touched."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from detres import wiring
from detres.config.data import CocoDataset, Dataset, OwnDataset, VocDataset
from detres.files.atomic_file import write_text_atomically
from detres.files.plain_text import printable
from detres.jobs.doctor.boxes import UNUSABLE
from detres.jobs.doctor.fix_coco import fix_coco
from detres.jobs.doctor.fix_voc import fix_voc
from detres.jobs.doctor.images import size_trouble
from detres.jobs.doctor.leaks import to_remove
from detres.jobs.doctor.patient import Cleaning, Patient

_REMOVED = (*UNUSABLE, "boxes_twice")


def require_fixable(entries: Mapping[str, Dataset], target: Path) -> None:
    """Raise ValueError when there is nothing to clean, or `target` is a data set or has something in it."""
    for entry in entries.values():
        if isinstance(entry, OwnDataset):
            wiring.own_paths(entry)  # files that are not there are told first
    sources = [source for entry in entries.values() if (source := _folder(entry)) is not None]
    if not sources:
        kinds = ", ".join(sorted({entry.type for entry in entries.values()}))
        raise ValueError(
            f"--fix: the sets are of type {kinds}; only COCO files and folders in VOC's layout can be cleaned"
        )
    for source in sources:
        if target.resolve() == source.resolve():
            raise ValueError(f"--fix: {target} is the data set itself; name a new folder: nothing is changed in place")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--fix: {target} exists and is not empty; name a new folder, or remove this one")


def write_fixed(patient: Patient, target: Path) -> list[str]:
    """Write the copies and changes.txt to `target`, all or nothing; returns what a person should know, line by line.

    Raises ValueError when a split would have no image left.
    """
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    leaks = to_remove(patient.splits, patient.readings)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        changes, notes = [], []
        for number, split in enumerate(patient.splits):
            if not isinstance(split.settings, CocoDataset | VocDataset) or not split.annotated:
                continue
            leaked = {place.image for place in leaks if place.split == number}
            cleaning = _plan(patient, number, leaked)
            if len(cleaning.removed_images) == len(split.images):
                raise ValueError(f"no usable image would be left in {split.name}")
            write = fix_coco if isinstance(split.settings, CocoDataset) else fix_voc
            settings = write(split, cleaning, folder, target)
            changes += cleaning.changes
            notes += [f"data.{split.name}.{key}={value}" for key, value in settings.items()]
        text = "".join(f"{printable(line)}\n" for line in changes) or "nothing was changed\n"
        write_text_atomically(folder / "changes.txt", text)
        if target.exists():
            target.rmdir()  # empty, or this fails
        os.chmod(folder, 0o777 & ~_umask())
        os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [f"{len(changes)} changes, listed in {target / 'changes.txt'}; to use the copy:", *notes]


def _plan(patient: Patient, number: int, leaked: set[int]) -> Cleaning:
    """What to do about each image and box of a split."""
    split, faults = patient.splits[number], patient.faults[number]
    cleaning = Cleaning()
    for position, image in enumerate(split.images):
        reading = patient.readings.get(image.path)
        where = f"{split.name}: image {image.id!r}"
        actual = reading.size_hw if reading is not None else None
        if reading is None or reading.trouble or actual is None:
            reason = "no file name" if reading is None else reading.message
            cleaning.remove_image(position, f"{where} removed: {reason}")
        elif position in leaked:
            cleaning.remove_image(position, f"{where} removed: it is also in a split that measures")
        elif image.size_hw is None or image.size_hw == actual[::-1] != actual:
            if image.size_hw is None or size_trouble(image.path, image.size_hw, reading):
                cleaning.sizes_hw[position] = actual
        elif size_trouble(image.path, image.size_hw, reading):
            cleaning.remove_image(position, f"{where} removed: the file is not of the annotated size")
    for key in _REMOVED:
        for row in np.flatnonzero(faults[key]).tolist():
            cleaning.removed_boxes[row] = patient.findings.by_key[key].check.title
    cleaning.cut_boxes = set(np.flatnonzero(faults["boxes_partly_outside"]).tolist())
    return cleaning


def _folder(entry: Dataset) -> Path | None:
    """The folder that the annotations of a set lie in; None for sets without."""
    if isinstance(entry, CocoDataset):
        return (wiring.data_root() / entry.annotations).parent
    return wiring.data_root() / entry.root if isinstance(entry, VocDataset) and entry.annotated else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
