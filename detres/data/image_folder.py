"""Classification data from folders: root/<class name>/**/<image>. Labels follow the sorted class names."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detres.data.annotations import DatasetError
from detres.data.folder_scan import ScanProgress, has_images, images_below, listed
from detres.data.image_sources import IMAGE_SUFFIXES
from detres.data.labelled_files import LabelledFiles


class ImageFolderDataset(LabelledFiles):
    """One folder of images per class; images may lie in subfolders, hidden files and other files are left alone.

    `class_names` fixes the classes and their order (for instance those of the training set): folders of other names
    are then an error and missing ones are allowed. By default the folders found are the classes, sorted by name.
    Raises DatasetError when there is no such folder, no class, or a class folder without images.
    """

    def __init__(self, root: str | os.PathLike[str], *, class_names: Sequence[str] | None = None) -> None:
        root = Path(root)
        folders = _class_folders(root)
        class_names = folders if class_names is None else class_names
        if unknown := sorted(set(folders) - set(class_names)):
            flat = "; images that lie together with a list of their classes are {type: flat_images}"
            raise DatasetError(
                f"{root}: class folders {listed(unknown)} are not among the expected classes "
                f"{listed(class_names)}; remove the folders, or add these classes to the training set"
                f"{flat if unknown == ['images'] else ''}"
            )
        files: list[str] = []
        counts: list[int] = []
        progress = ScanProgress(root)
        for name in class_names:
            found = images_below(root / name, progress) if name in folders else []
            files += [os.path.join(name, file) for file in found]
            counts.append(len(found))
        progress.finish()
        empty = [name for name, count in zip(class_names, counts, strict=True) if not count and name in folders]
        if empty:
            raise DatasetError(
                f"{root}: no images in class folder {listed(empty)}; expected files ending in "
                f"{' '.join(IMAGE_SUFFIXES)}: add images or delete the folder"
            )
        super().__init__(root, files, np.repeat(np.arange(len(counts)), counts), class_names)


def _class_folders(root: Path) -> list[str]:
    """The names of the class folders, sorted."""
    if not root.is_dir():
        raise DatasetError(
            f"{root}: no such folder; expected one folder of images per class below it. datasets/README.md says how to "
            "fetch ImageNet and Tiny-ImageNet, and DETRES_DATASETS where relative paths begin"
        )
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not names and has_images(root):
        raise DatasetError(
            f"{root}: expected one folder of images per class (root/<class>/<image>), found images without class "
            "folders; for those name the file that lists their classes: {type: flat_images, root: ..., labels: ...}"
        )
    if not names:
        raise DatasetError(f"{root}: expected one folder of images per class (root/<class>/<image>), found none")
    return names
