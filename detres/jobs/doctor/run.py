"""From a configuration to the findings about its data, a page that shows them, and a cleaned copy."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detres import wiring
from detres.config import Config, LoadedConfig
from detres.config.data import CocoDataset, Dataset, OwnDataset
from detres.config.model import ClassifierSettings, FasterRCNNSettings
from detres.files.atomic_file import require_writable, write_text_atomically
from detres.jobs.doctor.anchors import check_anchors, smallest_scales
from detres.jobs.doctor.boxes import check_boxes, find_faults
from detres.jobs.doctor.classes import check_classes, check_emptiness
from detres.jobs.doctor.findings import Findings
from detres.jobs.doctor.fix import require_fixable, write_fixed
from detres.jobs.doctor.held_out import mark_held_out
from detres.jobs.doctor.images import check_images, read_images, sizes_of
from detres.jobs.doctor.leaks import check_leaks
from detres.jobs.doctor.page import build_page
from detres.jobs.doctor.patient import Patient
from detres.jobs.doctor.read_others import read_split

Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class Diagnosis:
    """What was found and written.

    fixed     lines about the cleaned copy
    is_fixed  False: there was to be a cleaned copy, and none could be written
    """

    findings: Findings
    summary: tuple[str, ...]
    written: tuple[Path, ...]
    fixed: tuple[str, ...] = ()
    is_fixed: bool = True


def doctor(
    loaded: LoadedConfig,
    *,
    output: str | Path | None = None,
    fix: str | Path | None = None,
    workers: int | None = None,
    progress: Progress = lambda done, total, name: None,
) -> Diagnosis:
    """Check the data of a configuration and write doctor.html and doctor.json to `output` (runs/doctor_{config}).

    fix      a new folder for cleaned copies of the annotations
    workers  threads that read images; default: as many as there are processors, at most 8

    Nothing in the data sets is changed. Raises ValueError for a `fix` folder that exists with something in it or
    for data that have no annotations to clean, before anything is read, and OSError where nothing can be written.
    """
    folder = Path(output) if output is not None else Path("runs") / f"doctor_{loaded.name}"
    config = loaded.config
    if fix is not None:
        require_fixable(_entries(config), Path(fix))
    require_writable(folder, "choose another one by --output")
    patient = examine(config, workers or min(8, os.cpu_count() or 1), progress)
    summary = tuple(_summary(config, patient))
    findings = patient.findings
    page = build_page(f"detres doctor: {loaded.name}", summary, findings, lambda title: progress(0, None, title))
    content = {"config": loaded.name, "summary": summary, "checks": findings.to_dict()}
    write_text_atomically(folder / "doctor.html", page)
    write_text_atomically(folder / "doctor.json", json.dumps(content, indent=2) + "\n")
    return Diagnosis(findings, summary, (folder / "doctor.html", folder / "doctor.json"), *_fixed(patient, fix))


def _fixed(patient: Patient, fix: str | Path | None) -> tuple[tuple[str, ...], bool]:
    """Write the cleaned copy, or say why there is none: the findings must not be lost with it."""
    try:
        return (tuple(write_fixed(patient, Path(fix))) if fix is not None else ()), True
    except (ValueError, OSError) as error:
        return (f"no cleaned copy was written: {error}",), False


def examine(config: Config, workers: int, progress: Progress) -> Patient:
    """Read everything that the configuration names and look for everything in CHECKS."""
    is_detection = not isinstance(config.model, ClassifierSettings)
    has_anchors = isinstance(config.model, FasterRCNNSettings)
    findings = Findings(is_detection, has_anchors)
    splits = []
    for name, settings in _entries(config).items():
        progress(0, None, f"annotations of {name}")
        splits.append(read_split(settings, name, findings, is_detection))
    if wiring.is_held_out(config.data.val):
        assert isinstance(config.data.val, OwnDataset), "only those are held out"
        mark_held_out(config.data.val, splits)
    readings = read_images(splits, progress, workers)
    sizes = [sizes_of(split, readings) for split in splits]
    least = [smallest_scales(config, size) if is_detection else np.ones(len(size)) for size in sizes]
    faults = [find_faults(*each) for each in zip(splits, sizes, least, strict=True)]
    check_images(splits, readings, findings)
    if is_detection:
        check_boxes(splits, faults, sizes, config.data.on_bad_box, findings)
        check_emptiness(splits, faults, findings)
    if has_anchors:
        progress(0, None, "anchors")
        check_anchors(config, splits, faults, sizes, findings)
    check_classes(splits, faults, findings)
    check_leaks(splits, readings, findings)
    if not any(split.images for split in splits):
        findings.nothing_to_look_at()
    progress(0, None, "loading as training does")
    _check_loading(config, findings)
    return Patient(splits, faults, readings, findings)


def _entries(config: Config) -> dict[str, Dataset]:
    """The data sets by name: train (train.0 ... where there are several), val, test.

    Images held out of training are in train (`Split.held_out`). COCO files of the user's own are read as COCO's.
    """
    train = config.data.train
    entries = {f"train.{index}" if len(train) > 1 else "train": entry for index, entry in enumerate(train)}
    if not wiring.is_held_out(config.data.val):
        entries["val"] = config.data.val
    if config.data.test is not None:
        entries["test"] = config.data.test
    return {name: _as_coco(wiring.with_image_folder(entry, config)) for name, entry in entries.items()}


def _as_coco(entry: Dataset) -> Dataset:
    if not isinstance(entry, OwnDataset):
        return entry
    try:
        annotations, images = (path.absolute() for path in wiring.own_paths(entry))
    except ValueError:  # told when it is read
        return entry
    if annotations.is_dir():
        return entry
    return CocoDataset(type="coco", annotations=str(annotations), images=str(images))


def _check_loading(config: Config, findings: Findings) -> None:
    """Whatever the checks say: can training build these sets?"""
    try:
        names = wiring.build_train_dataset(config).class_names
        for split in ("val", "test") if config.data.test else ("val",):
            wiring.build_eval_dataset(config, names, split)
    except (ValueError, OSError, ImportError) as error:
        findings.add("loading", str(error))


def _summary(config: Config, patient: Patient) -> Sequence[str]:
    findings = patient.findings
    lines = []
    for split in patient.splits:
        boxes = f"{len(split.boxes)} boxes, " if "tiny_boxes" in findings.by_key else ""
        lines.append(
            f"data.{split.name}: {len(split.images)} images, {boxes}{len(split.class_names)} classes ({split.source})"
        )
    if wiring.is_held_out(config.data.val):
        count = sum(len(split.held_out or ()) for split in patient.splits)
        lines.append(f"data.val: {count} of the images of data.train, which are held out of training")
    errors, warnings = findings.count("error"), findings.count("warning")
    return [*lines, f"{len(findings.by_key)} checks: {errors} with errors, {warnings} with warnings"]
