"""A cleaned copy of the annotations in a new folder; the data sets themselves are never touched."""

import os
import shlex
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
from detres.jobs.doctor.fix_voc import fix_voc, fix_xml_folder
from detres.jobs.doctor.images import size_trouble
from detres.jobs.doctor.leaks import to_remove
from detres.jobs.doctor.patient import Cleaning, Patient

_REMOVED = (*UNUSABLE, "boxes_twice")
_WRITERS = {CocoDataset: fix_coco, VocDataset: fix_voc, OwnDataset: fix_xml_folder}


def require_fixable(entries: Mapping[str, Dataset], target: Path) -> None:
    """Raise ValueError when there is nothing to clean, or when `target` is no new folder outside of the data sets."""
    sources = [source for entry in entries.values() if (source := _folder(entry)) is not None]
    if not sources:
        kinds = ", ".join(sorted({entry.type for entry in entries.values()}))
        raise ValueError(
            f"--fix: the sets are of type {kinds}; only COCO files, folders in VOC's layout and folders of VOC's XML "
            "files can be cleaned. Leave --fix out, and mend by hand what is found"
        )
    for source in sources:
        if target.resolve() == source.resolve():
            raise ValueError(f"--fix: {target} is the data set itself; name a new folder: nothing is changed in place")
    for entry in entries.values():
        source = _folder(entry)
        if isinstance(entry, OwnDataset) and source is not None and source.resolve() in target.resolve().parents:
            raise ValueError(
                f"--fix: {target} is in {source}, where all XML files belong to the data set; name a folder elsewhere"
            )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--fix: {target} exists and is not empty; name a new folder, or remove this one")


def write_fixed(patient: Patient, target: Path) -> list[str]:
    """Write the copies and changes.txt to `target`, all or nothing; returns what a person should know, line by line.

    Raises ValueError when a split would have no image left.
    """
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        changes, settings, kept = _write_splits(patient, folder, target)
        text = "".join(f"{printable(line)}\n" for line in changes) or "nothing was changed\n"
        write_text_atomically(folder / "changes.txt", text)
        if target.exists():
            target.rmdir()  # empty, or this fails
        os.chmod(folder, 0o777 & ~_umask())
        os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [f"{len(changes)} changes, listed in {target / 'changes.txt'}; to use the copy:", *settings, *kept]


def _write_splits(patient: Patient, folder: Path, target: Path) -> tuple[list[str], list[str], list[str]]:
    """Changes, the settings that use the copies, and words about what is not copied."""
    changes, settings, kept = [], [], []
    leaks = to_remove(patient.splits, patient.readings)
    for number, split in enumerate(patient.splits):
        write = _WRITERS.get(type(split.settings))
        if write is None or not split.annotated:
            reason = f"type {split.settings.type} cannot be cleaned" if write is None else "it has no annotations"
            kept.append(f"data.{split.name} stays as it is: {reason}")
            continue
        leaked = {place.image: reason for place, reason in leaks.items() if place.split == number}
        cleaning = _plan(patient, number, leaked)
        if len(cleaning.removed_images) == len(split.images):
            raise ValueError(f"no usable image would be left in {split.name}")
        new = write(split, cleaning, folder, target)
        changes += cleaning.changes
        settings += [shlex.quote(f"data.{split.name}.{key}={value}") for key, value in new.items()]
    return changes, settings, kept


def _plan(patient: Patient, number: int, leaked: Mapping[int, str]) -> Cleaning:
    """What to do about each image and box of a split; `leaked` images go for the reason given."""
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
            cleaning.remove_image(position, f"{where} removed: {leaked[position]}")
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
    """The folder that the annotations of a set lie in; None for sets without. Raises ValueError where own are not."""
    match entry:
        case CocoDataset():
            return (wiring.data_root() / entry.annotations).parent
        case VocDataset(annotated=True):
            return wiring.data_root() / entry.root
        case OwnDataset():
            return wiring.own_paths(entry)[0].absolute()
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
