"""Detection data from text files that list boxes: Tiny-ImageNet's, and the CSV files of ImageNet's contest on Kaggle.

A line is an image and its boxes, separated by blanks, tabs or commas: `val_2.JPEG n04070727 4 0 60 55`, with as many
groups of class and corners as there are objects. Where the class is left out (Tiny-ImageNet's training boxes), it is
what ImageNet puts before the underscore of an image's name: `n03770439_0.JPEG 7 20 47 52`. Corners are 0-based
inclusive pixel indices x1, y1, x2, y2; here they become continuous, x1, y1, x2 + 1, y2 + 1.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from detres.data.annotated_files import AnnotatedFiles, ObjectRow
from detres.data.annotations import DatasetError
from detres.data.folder_scan import ScanProgress, images_below, listed
from detres.data.image_io import ImageError, formats

EXPECTED = "expected an image's name, then a class and x1 y1 x2 y2 for each object (or x1 y1 x2 y2 alone)"
_HEADER = "imageid"  # how Kaggle's files begin


class ListedImage(NamedTuple):
    """One line of a list: the image, its objects as (class, corners), and where that is said."""

    name: str
    objects: list[tuple[str, tuple[float, float, float, float]]]
    where: str


class BoxListDataset(AnnotatedFiles):
    """The images below `root` that the files `boxes` (one, or a glob of several) list, in their order.

    class_names  the classes to use, in this order; objects of others are counted. None: those that occur, sorted
    max_images   only the first ones
    on_bad_box   "drop": annotations that cannot be used are counted; "error": DatasetError

    Image ids are the paths below the root. Images that no list names are left out. Raises DatasetError for folders or
    lists that are missing, lines that cannot be understood, and listed images that are not there.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        boxes: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        max_images: int | None = None,
        on_bad_box: str = "drop",
    ) -> None:
        folder, lists = Path(root), sorted(glob.glob(str(boxes), recursive=True))
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; expected the images that {boxes} lists")
        if not lists:
            raise DatasetError(f"{boxes}: no such file; expected lists of boxes: {EXPECTED}")
        entries = [entry for path in lists for entry in read_box_list(Path(path))][:max_images]
        if not entries:
            raise DatasetError(f"{boxes}: the data set is empty: no line lists a box; {EXPECTED}")
        files = _find_files(folder, entries, str(boxes))
        rows = [
            ObjectRow(image, name, corners, False, entry.where)
            for image, entry in enumerate(entries)
            for name, corners in entry.objects
        ]
        paths = [str(folder / file) for file in files]
        super().__init__(
            f"{folder} ({boxes})",
            [Path(file).as_posix() for file in files],
            paths,
            [_size_hw(path) for path in paths],
            rows,
            first_pixel=0,
            class_names=class_names,
            on_bad_box=on_bad_box,
        )


def read_box_list(path: Path) -> Iterator[ListedImage]:
    """The lines of one list; DatasetError names the line that cannot be understood."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); {EXPECTED}") from error
    for number, line in enumerate(lines, 1):
        words = re.split(r"[\s,]+", line.strip().strip(","))
        if words == [""] or (number == 1 and words[0].lower() == _HEADER):
            continue
        where = f"{path}, line {number}"
        yield ListedImage(words[0], _objects(words[0], words[1:], where), where)


def _objects(image: str, words: list[str], where: str) -> list[tuple[str, tuple[float, float, float, float]]]:
    if len(words) == 4:
        words = [Path(image).name.split("_")[0], *words]
    if not words or len(words) % 5:
        raise DatasetError(f"{where}: got {len(words)} words behind the image's name {image!r}, {EXPECTED}")
    found = []
    for start in range(0, len(words), 5):
        name, *corners = words[start : start + 5]
        try:
            x1, y1, x2, y2 = map(float, corners)
        except ValueError:
            raise DatasetError(f"{where}: got the corners {' '.join(corners)!r}, expected four numbers") from None
        found.append((name, (x1, y1, x2, y2)))
    return found


def _find_files(root: Path, entries: Sequence[ListedImage], source: str) -> list[str]:
    """The file of each listed image, relative to the root; a name counts with or without its suffix."""
    progress = ScanProgress(root)
    files = images_below(root, progress)
    progress.finish()
    by_name: dict[str, str] = {}
    repeated = set()
    for file in files:
        for name in {Path(file).name, Path(file).stem}:
            repeated |= {name} if name in by_name else set()
            by_name[name] = file
    names = [Path(entry.name).name for entry in entries]
    if absent := [name for name in names if name not in by_name]:
        raise DatasetError(
            f"{root}: {len(absent)} of the {len(names)} images that {source} lists are not among the {len(files)} "
            f"there: {listed(absent)}; fetch them, or name another root"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    for what, unclear in (("has", repeated.intersection(names)), ("lists", twice)):
        if unclear:
            where = root if what == "has" else source
            raise DatasetError(f"{where}: {what} images of one name more than once: {listed(sorted(unclear))}")
    return [by_name[name] for name in names]


def _size_hw(path: str) -> tuple[int, int]:
    """Height and width of an image, by its header."""
    try:
        with Image.open(path, formats=formats()) as image:
            return image.height, image.width
    except Exception as error:  # damaged headers make the format plug-ins raise nearly anything
        raise ImageError(f"{path}: the image header cannot be read ({error}); fetch or export it again") from error
