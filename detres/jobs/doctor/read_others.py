"""Reading classification sets, and sets of the user's own classes, as far as it goes."""

import os
from pathlib import Path
from typing import cast

import numpy as np

from detres import wiring
from detres.config.data import CocoDataset, Dataset, ImageFolderDataset, OwnDataset, VocDataset
from detres.data.annotations import DetectionDataset, drop_messages
from detres.data.folder_scan import ScanProgress, images_below
from detres.data.samples import ClassificationDataset
from detres.jobs.doctor.findings import Findings
from detres.jobs.doctor.read_coco import read_coco
from detres.jobs.doctor.read_voc import read_voc, read_xml_folder
from detres.jobs.doctor.records import RawImage, Split, pack_boxes


def read_split(settings: Dataset, name: str, findings: Findings, is_detection: bool) -> Split:
    """One entry of `data`, of whatever kind."""
    match settings:
        case CocoDataset():
            return read_coco(settings, name, findings)
        case VocDataset(annotated=True):
            return read_voc(settings, name, findings)
        case ImageFolderDataset():
            return _read_image_folder(settings, name, findings)
    split = Split(name, settings, f"{settings.type} ({name})")
    try:
        if isinstance(settings, OwnDataset):
            return read_xml_folder(settings, name, findings)
        dataset = wiring.build_dataset(settings)
    except (ValueError, OSError, ImportError) as error:
        findings.add("annotation_files", str(error))
        return split
    split.class_names = tuple(dataset.class_names)
    split.annotated = not isinstance(settings, VocDataset)
    if is_detection:
        _fill_from_detection(cast(DetectionDataset, dataset), split, findings)
    else:
        _fill_from_classification(cast(ClassificationDataset, dataset), split)
    return split


def _read_image_folder(settings: ImageFolderDataset, name: str, findings: Findings) -> Split:
    """root/<class>/**/<image>."""
    root = wiring.data_root() / settings.root
    split = Split(name, settings, str(root))
    if not root.is_dir():
        findings.add("annotation_files", f"{root}: no such folder; expected one folder of images per class below it")
        return split
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        findings.add("annotation_files", f"{root}: expected one folder of images per class, found none")
    progress = ScanProgress(root)
    for label, class_name in enumerate(classes):
        files = images_below(root / class_name, progress)
        if not files:
            findings.add("annotation_files", f"{name}: no images in class folder {root / class_name}")
        for file in files:
            path = root / class_name / file
            split.images.append(RawImage(Path(class_name, file).as_posix(), str(path), label=label))
    progress.finish()
    split.class_names = tuple(classes)
    return split


def _fill_from_classification(dataset: ClassificationDataset, split: Split) -> None:
    for i in range(len(dataset)):
        split.images.append(RawImage(dataset.image_id(i), dataset.file(i), label=dataset.label(i)))
    if split.images and not os.path.isfile(split.images[0].path):
        split.read = dataset.read


def _fill_from_detection(dataset: DetectionDataset, split: Split, findings: Findings) -> None:
    """What the class gives out; what it left out it can only count."""
    for message in drop_messages(dataset):
        findings.add("annotation_files", f"{split.name}: left out: {message}", severity="warning")
    all_found = [dataset.annotations(i) for i in range(len(dataset))]
    for i in range(len(dataset)):
        split.images.append(RawImage(dataset.image_id(i), dataset.file(i), dataset.size_hw(i)))
    counts = [len(found) for found in all_found]
    split.boxes = pack_boxes(
        [box for found in all_found for box in found.boxes_xyxy],
        np.repeat(np.arange(len(counts)), counts).tolist(),
        [label for found in all_found for label in found.labels.tolist()],
        [bool(flag) for found in all_found for flag in found.ignore.tolist()],
        [number for count in counts for number in range(count)],
    )
