"""Classification data from folders: root/<class name>/**/<image>. Labels follow the sorted class names.

The paths are packed into one byte array, so that worker processes share them (ImageNet has 1.3 million).
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from detres.data.annotations import DatasetError, PackedStrings

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


class ImageFolderDataset:
    """One folder of images per class; images may lie in subfolders, hidden files and other files are left alone.

    `class_names` fixes the classes and their order (for instance those of the training set): folders of other names
    are then an error and missing ones are allowed. By default the folders found are the classes, sorted by name.
    Raises DatasetError when there is no such folder, no class, or a class folder without images.
    """

    def __init__(self, root: str | os.PathLike[str], *, class_names: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        folders = _class_folders(self.root)
        self.class_names = tuple(folders) if class_names is None else tuple(class_names)
        if unknown := sorted(set(folders) - set(self.class_names)):
            raise DatasetError(
                f"{self.root}: class folders {_listed(unknown)} are not among the expected classes "
                f"{_listed(self.class_names)}; remove the folders, or add these classes to the training set"
            )
        files: list[str] = []
        counts: list[int] = []
        for name in self.class_names:
            found = sorted(_images_below(self.root / name)) if name in folders else []
            files += [os.path.relpath(file, self.root) for file in found]
            counts.append(len(found))
        empty = [name for name, count in zip(self.class_names, counts, strict=True) if not count and name in folders]
        if empty:
            raise DatasetError(
                f"{self.root}: no images in class folder {_listed(empty)}; expected files ending in "
                f"{' '.join(IMAGE_SUFFIXES)}: add images or delete the folder"
            )
        self._files = PackedStrings(files)
        self._labels = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self._files)

    def image_id(self, index: int) -> str:
        """The path relative to the root, with forward slashes."""
        return Path(self._files[index]).as_posix()

    def file(self, index: int) -> str:
        """The path of an image."""
        return str(self.root / self._files[index])

    def label(self, index: int) -> int:
        """The label 0 ... K-1 of an image."""
        return int(self._labels[index])


def _class_folders(root: Path) -> list[str]:
    """The names of the class folders, sorted."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; expected one folder of images per class below it")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        found = "images without class folders" if next(_images_below(root), None) else "nothing of the kind"
        raise DatasetError(f"{root}: expected one folder of images per class (root/<class>/<image>), found {found}")
    return names


def _images_below(folder: Path) -> Iterator[str]:
    """The image files in a folder and its subfolders."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield os.path.join(parent, name)


def _listed(names: Sequence[str]) -> str:
    """The first few names, quoted."""
    return ", ".join(repr(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
