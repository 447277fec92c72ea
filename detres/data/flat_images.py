"""Classification data without class folders: one folder of images, and a file that lists the class of each.

This is how ImageNet's validation set (ILSVRC2012_val_00000001.JPEG ...) and Tiny-ImageNet's are published.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detres.data.annotations import DatasetError
from detres.data.flat_labels import FlatLabel, read_flat_labels
from detres.data.folder_scan import ScanProgress, images_below, listed
from detres.data.labelled_files import LabelledFiles


class FlatImagesDataset(LabelledFiles):
    """The images of one folder (and its subfolders), in the order of their list.

    labels       the list: see detres.data.flat_labels.read_flat_labels
    class_names  fixes the classes and their order (those of the training set); a listed class beyond them is an error.
                 By default they are the lines of the file `classes`, or else the listed classes, sorted
    Every image must be listed once and every listed image be there: DatasetError names those that differ.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        labels: str | os.PathLike[str],
        *,
        classes: str | os.PathLike[str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        root, source = Path(root), Path(labels)
        if not root.is_dir():
            raise DatasetError(f"{root}: no such folder; expected the images that {source} lists")
        listing = read_flat_labels(source)
        if class_names is None:
            found = {label.class_name for label in listing}
            class_names = sorted(found) if classes is None else _read_classes(Path(classes))
        index_of = {name: index for index, name in enumerate(class_names)}
        for label in listing:
            if label.class_name not in index_of:
                raise DatasetError(
                    f"{source}, line {label.line}: class {label.class_name!r} of {label.image} is not among the "
                    f"expected classes {listed(class_names)}; correct the line, or add the class to the training "
                    "set"
                )
        numbers = np.array([index_of[label.class_name] for label in listing], np.int64)
        super().__init__(root, _match_files(root, source, listing), numbers, class_names)


def _match_files(root: Path, source: Path, listing: Sequence[FlatLabel]) -> list[str]:
    """The file of each listed image; DatasetError unless files and list agree."""
    progress = ScanProgress(root)
    files = images_below(root, progress)
    progress.finish()
    by_name = _names(files)
    lines: dict[str, int] = {}
    for label in listing:
        file = by_name.get(label.image)
        if file is None:
            absent = [each.image for each in listing if each.image not in by_name]
            raise DatasetError(
                f"{root}: {len(absent)} of the {len(listing)} images listed in {source} are not among the "
                f"{len(files)} there: {listed(absent)}; fetch them, or correct the list"
            )
        if file in lines:
            raise DatasetError(
                f"{source}, line {label.line}: {label.image} is listed again (first in line {lines[file]}); delete one"
            )
        lines[file] = label.line
    if len(lines) < len(files):
        without = [file for file in files if file not in lines]
        raise DatasetError(
            f"{root}: {len(files)} images, but {source} lists {len(lines)}; without a class: {listed(without)}; "
            "complete the list, or move these images away"
        )
    return list(lines)


def _names(files: Sequence[str]) -> dict[str, str]:
    """What a list may call each file: by its path or its name alone, with or without suffix; the fullest name wins."""
    paths = {Path(file): file for file in files}
    return (
        {path.stem: file for path, file in paths.items()}
        | {path.name: file for path, file in paths.items()}
        | {path.with_suffix("").as_posix(): file for path, file in paths.items()}
        | {path.as_posix(): file for path, file in paths.items()}
    )


def _read_classes(path: Path) -> list[str]:
    """The class names in a file, one per line."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; expected the class names, one per line")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(f"{path}: class names must be unique, {listed(repeated)} occur more than once")
    return names
