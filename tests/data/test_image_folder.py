"""ImageFolderDataset on folders made by hand."""

from pathlib import Path

import pytest

from detres.data.annotations import DatasetError
from detres.data.image_folder import ImageFolderDataset


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_missing_and_empty_roots_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"absent: no such folder"):
        ImageFolderDataset(tmp_path / "absent")
    with pytest.raises(DatasetError, match="one folder of images per class"):
        ImageFolderDataset(tmp_path)


def test_images_without_class_folders_are_recognised(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="images without class folders"):
        ImageFolderDataset(_touch(tmp_path, "a.jpg"))


def test_a_class_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no images in class folder 'dog'"):
        ImageFolderDataset(_touch(tmp_path, "cat/1.png", "dog/notes.txt"))


def test_order_labels_and_ids(tmp_path: Path) -> None:
    root = _touch(
        tmp_path, "b/2.PNG", "b/1.jpeg", "b/deep/3.jpg", "a/z ü.bmp", "b/.hidden.png", ".git/x.png", "b/t.txt"
    )
    data = ImageFolderDataset(root)
    assert data.class_names == ("a", "b")
    assert [data.image_id(i) for i in range(len(data))] == ["a/z ü.bmp", "b/1.jpeg", "b/2.PNG", "b/deep/3.jpg"]
    assert [data.label(i) for i in range(len(data))] == [0, 1, 1, 1]
    assert all(Path(data.file(i)).is_file() for i in range(len(data)))


def test_given_class_names_fix_the_labels(tmp_path: Path) -> None:
    root = _touch(tmp_path, "b/1.png")
    data = ImageFolderDataset(root, class_names=["a", "b"])
    assert data.class_names == ("a", "b") and data.label(0) == 1
    with pytest.raises(DatasetError, match=r"class folders 'b' are not among the expected classes 'a', 'c'"):
        ImageFolderDataset(root, class_names=["a", "c"])
