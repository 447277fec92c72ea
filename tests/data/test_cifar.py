"""CIFAR-10: the splits, the npz files, and what is wrong with them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detres.data.annotations import DatasetError
from detres.data.cifar import Cifar10Dataset

NAMES = ["cat", "dog"]


def write_npz(path: Path, labels: list[int], side: int = 32, names: list[str] = NAMES) -> None:
    """Image i is evenly grey, as bright as 2 i."""
    files = []
    for i in range(len(labels)):
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), (2 * i, 2 * i, 2 * i)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    jpeg = np.frombuffer(b"".join(files), np.uint8)
    np.savez(path, jpeg=jpeg, offsets=offsets, labels=np.array(labels, np.uint8), label_names=np.array(names))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_npz(tmp_path / "cifar10_train_jpeg.npz", [0] * 20 + [1] * 30)
    write_npz(tmp_path / "cifar10_test_jpeg.npz", [1, 0])
    return tmp_path


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no CIFAR-10 here.*prepare_cifar10.py"):
        Cifar10Dataset(tmp_path)


def test_train_and_val_share_the_images_by_class(root: Path) -> None:
    train, val, both = (Cifar10Dataset(root, split) for split in ("train", "val", "trainval"))
    assert (len(train), len(val), len(both)) == (45, 5, 50)
    assert sorted(val.label(i) for i in range(5)) == [0, 0, 1, 1, 1]
    ids = [dataset.image_id(i) for dataset in (train, val) for i in range(len(dataset))]
    assert sorted(ids) == list(range(50))
    for dataset in (train, val, both):
        for i in range(len(dataset)):
            number = dataset.image_id(i)
            assert dataset.label(i) == (number >= 20)
            assert dataset.read(i).shape == (32, 32, 3) and abs(int(dataset.read(i)[5, 5, 1]) - 2 * number) <= 1
            assert dataset.file(i).endswith(f"cifar10_train_jpeg.npz (image {number})")


def test_the_split_stays_the_same(root: Path) -> None:
    first, again = Cifar10Dataset(root, "val"), Cifar10Dataset(root, "val")
    ids = [first.image_id(i) for i in range(5)]
    assert ids == [again.image_id(i) for i in range(5)]
    assert ids != [0, 1, 20, 21, 22], "not simply the first ones"


def test_the_test_images(root: Path) -> None:
    test = Cifar10Dataset(root, "test", class_names=NAMES)
    assert [test.label(i) for i in range(len(test))] == [1, 0] and test.class_names == ("cat", "dog")


def test_other_classes_than_those_trained_on(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"classes are cat, dog; expected cat, frog"):
        Cifar10Dataset(root, "test", class_names=["cat", "frog"])


def test_unknown_split(root: Path) -> None:
    with pytest.raises(ValueError, match="got 'dev', expected one of train, val"):
        Cifar10Dataset(root, "dev")


def test_damaged_files(root: Path) -> None:
    path = root / "cifar10_test_jpeg.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"cifar10_test_jpeg.npz: damaged"):
        Cifar10Dataset(root, "test")
    write_npz(path, [0], side=16)
    with pytest.raises(DatasetError, match="16x16 pixels, expected 32x32"):
        Cifar10Dataset(root, "test")
    write_npz(path, [0, 3])
    with pytest.raises(DatasetError, match="2 images, 2 labels of 2 classes do not fit"):
        Cifar10Dataset(root, "test")


def test_the_real_images(real_data: Path) -> None:
    test = Cifar10Dataset(real_data / "cifar10", "test")
    assert len(test) == 10_000 and test.class_names[0] == "airplane" and test.class_names[9] == "truck"
    assert np.bincount([test.label(i) for i in range(len(test))]).tolist() == [1000] * 10
    mean = np.mean([test.read(i).mean(axis=(0, 1)) for i in range(0, 10_000, 10)], axis=0)
    np.testing.assert_allclose(mean, [125.3, 123.0, 113.9], atol=3)  # the published means of the training images
