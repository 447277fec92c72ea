"""CIFAR-10's pickled batches, made by hand; checksums, and what a pickle may not do."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detres.data import cifar_batches
from detres.data.annotations import DatasetError
from detres.data.cifar import Cifar10Dataset
from detres.data.cifar_batches import MD5, find_cifar_batches, read_cifar_batches, unpickle_plain

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Python2Pickler(pickle._Pickler):
    """Writes str and bytes as Python 2 wrote its strings, as in the published files."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text: Any) -> None:
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def write_python2(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2, fix_imports=True).dump(content)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))


def write_batches(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int = 20) -> dict[str, np.ndarray]:
    """All seven files, with their checksums in place of the published ones; the images by file name."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    images = {}
    write_python2(folder / "batches.meta", {"label_names": NAMES, "num_vis": 3072})
    for name in (*cifar_batches.TRAIN_BATCHES, *cifar_batches.TEST_BATCHES):
        images[name] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        planes = np.stack([image[:, :, channel].ravel() for image in images[name] for channel in range(3)])
        content = {"data": planes.reshape(count, 3072), "labels": [i % 10 for i in range(count)], "filenames": ["a"]}
        write_python2(folder / name, content)
    publish(folder, monkeypatch)
    return images


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MD5:
        monkeypatch.setitem(cifar_batches.MD5, name, hashlib.md5((folder / name).read_bytes()).hexdigest())


def test_no_batches(tmp_path: Path) -> None:
    assert find_cifar_batches(tmp_path) is None
    with pytest.raises(DatasetError, match=r"batches.meta, test_batch missing; delete .* run python datasets/prepare"):
        read_cifar_batches(tmp_path, train=False)


def test_images_labels_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_batches(tmp_path / "cifar-10-batches-py", monkeypatch)
    folder = find_cifar_batches(tmp_path)
    assert folder == tmp_path / "cifar-10-batches-py" == find_cifar_batches(folder)
    images, labels, names = read_cifar_batches(folder, train=True)
    assert images.dtype == np.uint8 and images.shape == (100, 32, 32, 3) and names == tuple(NAMES)
    assert np.array_equal(images[60:80], written["data_batch_4"])
    assert labels.dtype == np.int64 and labels.tolist() == [i % 10 for i in range(20)] * 5
    images, labels, _ = read_cifar_batches(folder, train=False)
    assert np.array_equal(images, written["test_batch"]) and len(labels) == 20

    data = Cifar10Dataset(tmp_path, "test")
    assert len(data) == 20 and np.array_equal(data.read(7), written["test_batch"][7]) and data.label(7) == 7


def test_the_published_checksums() -> None:
    torchvision_datasets = pytest.importorskip("torchvision.datasets")
    cifar = torchvision_datasets.CIFAR10
    assert dict([*cifar.train_list, *cifar.test_list]) | {cifar.meta["filename"]: cifar.meta["md5"]} == MD5


def test_corrupted_and_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_batches(folder, monkeypatch)
    content = bytearray((folder / "data_batch_3").read_bytes())
    content[5000] ^= 1
    (folder / "data_batch_3").write_bytes(content)
    found = hashlib.md5(content).hexdigest()
    with pytest.raises(DatasetError, match=rf"data_batch_3: corrupted.*md5 {found}, expected {MD5['data_batch_3']}"):
        read_cifar_batches(folder, train=True)
    assert len(read_cifar_batches(folder, train=False)[0]) == 20
    (folder / "data_batch_5").unlink()
    with pytest.raises(DatasetError, match="data_batch_5 missing"):
        read_cifar_batches(folder, train=True)


@pytest.mark.parametrize(
    "content, error",
    [
        ({"labels": [0]}, "no 'data' in it, found labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "labels` below 10"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, r"found \(2, 3072\) and \(1,\)"),
        ({"data": np.zeros((1, 3072)), "labels": [1]}, r"uint8"),
        ([1], "holds a list, expected a dict"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, error: str) -> None:
    write_batches(tmp_path / "b", monkeypatch)
    write_python2(tmp_path / "b" / "test_batch", content)
    publish(tmp_path / "b", monkeypatch)
    with pytest.raises(DatasetError, match=f"test_batch: .*{error}"):
        read_cifar_batches(tmp_path / "b", train=False)


class Harmful:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def test_pickles_call_nothing_but_array_makers(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for harm in (Harmful(os.mkdir, str(mark)), Harmful(eval, "1"), Harmful(np.load, "x"), Harmful(getattr, [], "pop")):
        for protocol in (0, 2, 4):
            with pytest.raises(DatasetError, match="only arrays and plain containers are read"):
                unpickle_plain(pickle.dumps({"data": harm}, protocol), tmp_path / "x")
    assert not mark.exists()
    with pytest.raises(DatasetError, match="x: cannot be read"):
        unpickle_plain(b"", tmp_path / "x")
