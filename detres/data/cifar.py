"""CIFAR-10: 60,000 images of 32x32 pixels in memory, from the published batches or from JPEG bytes in npz files."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from detres.data.annotations import DatasetError
from detres.data.cifar_batches import find_cifar_batches, read_cifar_batches
from detres.structures.random import derive_seed

SPLITS = ("train", "val", "trainval", "test")
VAL_SHARE = 10
"""One image in this many of each class is held out for validation: 45,000 and 5,000, as in the ResNet paper."""

_NPZ_KEYS = ("jpeg", "offsets", "labels", "label_names")


class CifarImages(NamedTuple):
    """images (N, 32, 32, 3) uint8 RGB, labels (N,) int64, the name of each label, and where they came from."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    source: Path


class Cifar10Dataset:
    """The images of one split: train (45,000), val (5,000), trainval (both) or test (10,000).

    `root` holds cifar-10-batches-py/ (datasets/prepare_cifar10.py fetches it), or cifar10_train_jpeg.npz and
    cifar10_test_jpeg.npz: arrays `jpeg` (all files joined), `offsets` (N + 1,), `labels` (N,), `label_names`.
    Which images are held out for val follows from their order in the file and from nothing else.
    Raises DatasetError when files are missing, damaged or not what was published.
    """

    def __init__(
        self, root: str | os.PathLike[str], split: str = "train", *, class_names: Sequence[str] | None = None
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
        found = _read_images(Path(root), train=split != "test")
        self.class_names = found.names if class_names is None else tuple(class_names)
        if self.class_names != found.names:
            raise DatasetError(
                f"{found.source}: its classes are {', '.join(found.names)}; expected {', '.join(self.class_names)}: "
                "evaluate on the data set that the classifier was trained on"
            )
        held_out = _held_out(found.labels)
        chosen = {"train": ~held_out, "val": held_out}.get(split, np.ones(len(held_out), bool))
        self._rows = np.flatnonzero(chosen)
        self._images, self._labels, self._source = found.images[chosen], found.labels[chosen], found.source

    def __len__(self) -> int:
        return len(self._labels)

    def image_id(self, index: int) -> int:
        """The image's position in the published order."""
        return int(self._rows[index])

    def file(self, index: int) -> str:
        """The file, and which of its images."""
        return f"{self._source} (image {self._rows[index]})"

    def read(self, index: int) -> np.ndarray:
        """The pixels (32, 32, 3) uint8 RGB."""
        image: np.ndarray = self._images[index]
        return image

    def label(self, index: int) -> int:
        """The label 0 ... 9."""
        return int(self._labels[index])


def _read_images(root: Path, train: bool) -> CifarImages:
    if batches := find_cifar_batches(root):
        return CifarImages(*read_cifar_batches(batches, train), batches)
    npz = root / f"cifar10_{'train' if train else 'test'}_jpeg.npz"
    if npz.is_file():
        return _read_npz(npz)
    raise DatasetError(
        f"{root}: no CIFAR-10 here; expected cifar-10-batches-py/ or {npz.name}. Fetch it: "
        "python datasets/prepare_cifar10.py"
    )


def _read_npz(path: Path) -> CifarImages:
    """Decode all images of an npz; they are small, and decoding them once is quicker than at every epoch."""
    try:
        with np.load(path, allow_pickle=False) as file:
            jpeg, offsets, labels, names = (file[key] for key in _NPZ_KEYS)
        images = np.stack([_decode(jpeg[a:b].tobytes()) for a, b in zip(offsets[:-1], offsets[1:], strict=True)])
    except Exception as error:  # damaged archives and JPEGs make numpy and Pillow raise nearly anything
        raise DatasetError(
            f"{path}: damaged, or no such file as is expected (arrays {', '.join(_NPZ_KEYS)}): {error}"
        ) from error
    if len(labels) != len(images) or labels.min() < 0 or labels.max() >= len(names):
        raise DatasetError(f"{path}: {len(images)} images, {len(labels)} labels of {len(names)} classes do not fit")
    return CifarImages(images, labels.astype(np.int64), tuple(map(str, names)), path)


def _decode(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        pixels = np.array(image.convert("RGB"))
    if pixels.shape != (32, 32, 3):
        raise ValueError(f"an image of {pixels.shape[1]}x{pixels.shape[0]} pixels, expected 32x32")
    return pixels


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Which images are validation images: (N,) bool, one in VAL_SHARE of each class."""
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        keys = [derive_seed(0, int(row)) for row in rows]
        held_out[rows[np.argsort(keys, kind="stable")[: len(rows) // VAL_SHARE]]] = True
    return held_out
