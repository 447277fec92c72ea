"""Lists that give each image of a flat folder its class: ImageNet's development kit, Kaggle's CSV, Tiny-ImageNet's."""

import csv
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detres.data.annotations import DatasetError

DEVKIT_FILE = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT_META = "meta.mat"
KINDS = f"the development kit's {DEVKIT_FILE}, Kaggle's LOC_val_solution.csv, or lines of image name and class"

_HEADERS = {"imageid", "image_id", "image", "name", "file", "filename", "file_name", "id"}


class FlatLabel(NamedTuple):
    """One line of a list: the image's file name, with or without suffix, its class, and where that is said."""

    image: str
    class_name: str
    line: int


def read_flat_labels(path: Path) -> list[FlatLabel]:
    """The classes of the images that a file lists, in its order.

    The kit's ILSVRC2012_validation_ground_truth.txt has one number per image, which meta.mat beside it translates.
    Other files have lines `name,class` or `name<tab>class` (columns beyond these are left alone), with or without a
    header; where the header calls the second column PredictionString, its first word is the class.
    Raises DatasetError naming file and line when there is no such file or it cannot be understood.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; the classes of images without class folders come from it: {KINDS}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text file in UTF-8 ({error}); expected {KINDS}") from error
    if not text.strip():
        raise DatasetError(f"{path}: empty; expected {KINDS}")
    return list(_devkit_labels(path, text) if _is_devkit(text) else _table_labels(path, text))


def _is_devkit(text: str) -> bool:
    """Whether every line is a single number."""
    return all(line.strip().isdecimal() for line in text.splitlines() if line.strip())


def _devkit_labels(path: Path, text: str) -> Iterator[FlatLabel]:
    """Line k is the class of ILSVRC2012_val_{k:08d}.JPEG."""
    names = read_devkit_classes(path.with_name(DEVKIT_META))
    for number, line in enumerate(text.split(), 1):
        if int(line) not in names:
            raise DatasetError(f"{path}, line {number}: got class {line}, expected one of the {len(names)} in meta.mat")
        yield FlatLabel(f"ILSVRC2012_val_{number:08d}", names[int(line)], number)


def read_devkit_classes(path: Path) -> dict[int, str]:
    """The wnid ("n01440764") of each class number of the kit's meta.mat; inner nodes of the tree are left out."""
    from scipy.io import loadmat

    if not path.is_file():
        raise DatasetError(f"{path}: no such file; it belongs beside {DEVKIT_FILE} and translates its numbers")
    try:
        synsets = loadmat(str(path), squeeze_me=True)["synsets"]
        leaves = synsets[synsets["num_children"] == 0]
        return {int(number): str(wnid) for number, wnid in zip(leaves["ILSVRC2012_ID"], leaves["WNID"], strict=True)}
    except Exception as error:  # damaged files make the reader raise nearly anything
        text = f"{path}: not the development kit's meta.mat, or damaged ({type(error).__name__}: {error})"
        raise DatasetError(f"{text}; unpack ILSVRC2012_devkit_t12.tar.gz again") from error


def _table_labels(path: Path, text: str) -> Iterator[FlatLabel]:
    """The first two columns of a CSV or tab-separated file."""
    first_word_only = False
    for number, row in _rows(path, text):
        if len(row) < 2 or not row[0] or not row[1]:
            raise DatasetError(f"{path}, line {number}: got {','.join(row)[:80]!r}, expected {KINDS}")
        if number == 1 and row[0].lower() in _HEADERS:
            first_word_only = row[1].lower() == "predictionstring"
        else:
            yield FlatLabel(row[0], row[1].split()[0] if first_word_only else row[1], number)


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and the fields of each row that is not empty."""
    lines = text.splitlines()
    has_tabs = "\t" in text
    reader = csv.reader(lines, delimiter="\t" if has_tabs else ",", quoting=csv.QUOTE_NONE if has_tabs else 0)
    try:
        for fields in reader:
            if any(row := [field.strip() for field in fields]):
                yield reader.line_num, row
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: {error}; expected {KINDS}") from error


def move_into_class_folders(images: Path, labels: Sequence[FlatLabel], target: Path, suffix: str = "") -> None:
    """Move each listed image from the folder `images` to target/<class>/; those that are not there are passed over.

    `suffix` is added to the listed names. Raises DatasetError for names that are no plain file names.
    """
    for label in labels:
        name = label.image + suffix
        if any(part in (".", "..") or Path(part).name != part for part in (name, label.class_name)):
            raise DatasetError(f"line {label.line}: {name!r} or {label.class_name!r} is not a plain name of a file")
        if (images / name).is_file():
            (target / label.class_name).mkdir(parents=True, exist_ok=True)
            shutil.move(images / name, target / label.class_name / name)  # not os.replace: maybe another disk
