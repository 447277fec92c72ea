"""Classification data that are image files below one folder, each with a label."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detres.data.annotations import PackedStrings
from detres.data.image_io import read_image


class LabelledFiles:
    """Image files with labels, however they were found.

    root         the folder
    files        paths relative to it; packed into one byte array, which worker processes share (ImageNet has 1.3
                 million)
    labels       (N,) integers 0 ... K-1
    class_names  the name of each label
    """

    def __init__(self, root: Path, files: Sequence[str], labels: np.ndarray, class_names: Sequence[str]) -> None:
        assert len(files) == len(labels), "one label per file"
        self.root, self.class_names = root, tuple(class_names)
        self._files, self._labels = PackedStrings(files), labels

    def __len__(self) -> int:
        return len(self._files)

    def image_id(self, index: int) -> str:
        """The path relative to the root, with forward slashes."""
        return Path(self._files[index]).as_posix()

    def file(self, index: int) -> str:
        """The path of an image."""
        return str(self.root / self._files[index])

    def read(self, index: int) -> np.ndarray:
        """The pixels of an image, (H, W, 3) uint8 RGB; ImageError when the file cannot be used."""
        return read_image(self.file(index))

    def label(self, index: int) -> int:
        """The label 0 ... K-1 of an image."""
        return int(self._labels[index])
