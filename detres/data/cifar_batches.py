"""CIFAR-10 as its authors publish it: pickled batches in cifar-10-batches-py/, each checked before it is opened.

Pickles can run code when they are read. These are opened only if their md5 sum is the published one, and then by a
reader that builds nothing but arrays and plain containers.
"""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from detres.data.annotations import DatasetError

FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
TEST_BATCHES = ("test_batch",)
NAMES_FILE = "batches.meta"
MD5 = {
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
"""Of the published files (cifar-10-python.tar.gz, md5 c58f30108f718f92721af3b95e74349a)."""

_REMEDY = "delete the folder and run python datasets/prepare_cifar10.py again"


def find_cifar_batches(root: Path) -> Path | None:
    """The folder with the batches: `root` itself or cifar-10-batches-py/ below it; None if there are none."""
    for folder in (root, root / FOLDER):
        if any((folder / name).is_file() for name in MD5):
            return folder
    return None


def read_cifar_batches(folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images (N, 32, 32, 3) uint8 RGB, labels (N,) int64 and the class names, in the published order.

    Raises DatasetError naming the file when one is missing, is not the published one (md5), or holds something else.
    """
    batches = TRAIN_BATCHES if train else TEST_BATCHES
    if missing := [name for name in (NAMES_FILE, *batches) if not (folder / name).is_file()]:
        raise DatasetError(f"{folder}: {', '.join(missing)} missing; {_REMEDY}")
    names = _field(folder / NAMES_FILE, _load(folder / NAMES_FILE), "label_names")
    parts = [_read_batch(folder / name, len(names)) for name in batches]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return images, labels, tuple(map(str, names))


def _read_batch(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The images (n, 32, 32, 3) and labels (n,) of one batch; in the file a row is 32x32 red, then green, then blue."""
    content = _load(path)
    rows, labels = _field(path, content, "data"), np.asarray(_field(path, content, "labels"))
    is_rows = isinstance(rows, np.ndarray) and rows.dtype == np.uint8 and rows.shape == (len(labels), 3 * 32 * 32)
    if not is_rows or labels.dtype.kind != "i" or labels.min(initial=0) < 0 or labels.max(initial=0) >= num_classes:
        raise DatasetError(
            f"{path}: expected `data` (n, 3072) uint8 and n `labels` below {num_classes}, "
            f"found {getattr(rows, 'shape', type(rows).__name__)} and {labels.shape}; {_REMEDY}"
        )
    images = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, labels.astype(np.int64)


def _field(path: Path, content: dict[Any, Any], name: str) -> Any:
    if name not in content:
        raise DatasetError(f"{path}: no {name!r} in it, found {', '.join(map(str, content))}; {_REMEDY}")
    return content[name]


def _load(path: Path) -> dict[Any, Any]:
    """The dict in one file, once its md5 sum is the published one."""
    content = path.read_bytes()  # read once: what is unpickled is what was checked
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != MD5[path.name]:
        text = f"{path}: corrupted, or not the published file: md5 {found}, expected {MD5[path.name]}"
        raise DatasetError(f"{text}; {_REMEDY}")
    return unpickle_plain(content, path)


def unpickle_plain(content: bytes, path: Path) -> dict[Any, Any]:
    """The dict that a pickle holds, if it needs nothing but numbers, strings, lists, dicts and numpy arrays.

    Raises DatasetError naming `path` for anything else.
    """
    try:  # latin1 is how numpy asks for arrays that Python 2 pickled to be read
        found = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # what is no pickle makes the reader raise nearly anything
        raise DatasetError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{path}: holds a {type(found).__name__}, expected a dict; {_REMEDY}")
    return found


class _PlainUnpickler(pickle.Unpickler):
    """A reader of pickles that calls nothing but the makers of numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call: the three parts of a pickled array."""
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return np.zeros(0).__reduce__()[0]  # the same function under the name that this numpy has for it
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}; only arrays and plain containers are read")
