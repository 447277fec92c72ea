"""The data of localisation: ImageNet's folders, lists of boxes, and which images are left."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detres.data.annotations import DatasetError
from detres.data.box_lists import BoxListDataset
from detres.data.image_io import ImageError
from detres.data.imagenet_loc import ImageNetLocDataset
from detres.data.localization import OneClassDataset
from detres.data.views import with_classes


def _image(path: Path, height: int = 20, width: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def _xml(path: Path, *objects: tuple[str, int, int, int, int]) -> None:
    found = "".join(
        f"<object><name>{name}</name><difficult>1</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><size><width>30</width><height>20</height></size>{found}</annotation>")


def _imagenet(root: Path) -> Path:
    """Two training images with boxes, one without, and one to validate."""
    for name in ("n01/n01_1", "n02/n02_1", "n02/n02_2"):
        _image(root / f"Data/CLS-LOC/train/{name}.JPEG")
    _xml(root / "Annotations/CLS-LOC/train/n02/n02_2.xml", ("n02", 0, 0, 29, 19), ("n02", 3, 4, 9, 8))
    _xml(root / "Annotations/CLS-LOC/train/n01/n01_1.xml", ("n01", 2, 3, 10, 12))
    _image(root / "Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG")
    _xml(root / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml", ("n02", 1, 1, 5, 5))
    return root


def test_imagenet_folders(tmp_path: Path) -> None:
    root = _imagenet(tmp_path)
    train = ImageNetLocDataset(root, "train")
    assert [train.image_id(i) for i in range(len(train))] == ["n01/n01_1", "n02/n02_2"]
    assert train.class_names == ("n01", "n02") and train.size_hw(0) == (20, 30) and Path(train.file(1)).is_file()
    assert train.annotations(0).boxes_xyxy.tolist() == [[2, 3, 11, 13]]
    assert train.annotations(1).boxes_xyxy.tolist() == [[0, 0, 30, 20], [3, 4, 10, 9]]
    assert not train.annotations(1).ignore.any()  # ImageNet has no difficult objects
    val = ImageNetLocDataset(root, "val")
    assert val.image_id(0) == "ILSVRC2012_val_00000001"
    assert with_classes(val, train.class_names).annotations(0).labels.tolist() == [1]
    assert len(ImageNetLocDataset(root, "train", max_images=1)) == 1


def test_imagenet_folders_that_are_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"Annotations.CLS-LOC.train: no such folder; expected Data/CLS-LOC"):
        ImageNetLocDataset(tmp_path, "train")
    for kind in ("Data", "Annotations"):
        (tmp_path / kind / "CLS-LOC" / "train").mkdir(parents=True)
    with pytest.raises(DatasetError, match="empty: no .xml file"):
        ImageNetLocDataset(tmp_path, "train")


def _lists(root: Path, **files: str) -> Path:
    for name in ("n01/n01_1.JPEG", "n01/images/n01_2.JPEG", "n02/val_3.JPEG"):
        _image(root / "images" / name)
    for name, text in files.items():
        (root / f"{name}.txt").write_text(text)
    return root / "images"


def test_lists_of_boxes(tmp_path: Path) -> None:
    root = _lists(tmp_path, a="n01_2.JPEG\t0\t1\t29\t19\n\nn01_1.JPEG 4 4 5 9\n", b="val_3.JPEG n02 1 2 3 4\n")
    dataset = BoxListDataset(root, tmp_path / "*.txt")
    assert [dataset.image_id(i) for i in range(3)] == ["n01/images/n01_2.JPEG", "n01/n01_1.JPEG", "n02/val_3.JPEG"]
    assert dataset.class_names == ("n01", "n02") and dataset.size_hw(0) == (20, 30)
    assert [dataset.annotations(i).boxes_xyxy.tolist() for i in (0, 2)] == [[[0, 1, 30, 20]], [[1, 2, 4, 5]]]
    assert [dataset.annotations(i).labels.tolist() for i in range(3)] == [[0], [0], [1]]


def test_kaggles_lists(tmp_path: Path) -> None:
    text = "ImageId,PredictionString\nn01_1,n01 1 2 3 4 n01 5 6 7 8 \nval_3,n02 0 0 9 9 \n"
    dataset = BoxListDataset(_lists(tmp_path, a=text), tmp_path / "a.txt")
    assert dataset.annotations(0).boxes_xyxy.tolist() == [[1, 2, 4, 5], [5, 6, 8, 9]] and len(dataset) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty: no line lists a box"),
        ("n01_1.JPEG 1 2 3\n", r"a.txt, line 1: got 3 words .* 'n01_1.JPEG', expected an image's name"),
        ("n01_1.JPEG n01 1 2 three 4\n", "line 1: got the corners '1 2 three 4', expected four numbers"),
        ("n01_9.JPEG 1 2 3 4\n", "1 of the 1 images that .* not among the 3 there: 'n01_9.JPEG'"),
        ("n01_1 1 2 3 4\nn01_1 1 2 3 4\n", "lists images of one name more than once: 'n01_1'"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        BoxListDataset(_lists(tmp_path, a=text), tmp_path / "a.txt")


def test_lists_and_images_that_are_missing_or_damaged(tmp_path: Path) -> None:
    root = _lists(tmp_path, a="n01_1.JPEG 1 2 3 4\n")
    with pytest.raises(DatasetError, match="b.txt: no such file"):
        BoxListDataset(root, tmp_path / "b.txt")
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        BoxListDataset(tmp_path / "nowhere", tmp_path / "a.txt")
    (root / "n01" / "n01_1.JPEG").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="header cannot be read"):
        BoxListDataset(root, tmp_path / "a.txt")
    _image(root / "n02" / "n01_1.JPEG")
    with pytest.raises(DatasetError, match="has images of one name more than once: 'n01_1.JPEG'"):
        BoxListDataset(root, tmp_path / "a.txt")


def test_images_of_one_class_are_left(tmp_path: Path) -> None:
    text = "n01_1 n01 1 2 3 4 n02 5 6 7 8\nn01_2 n02 5 5 5 9\nval_3 n02 0 0 9 9 n02 0 0 4 4\n"
    dataset = BoxListDataset(_lists(tmp_path, a=text), tmp_path / "a.txt")
    view = OneClassDataset(dataset, "data.val")
    assert len(view) == 1 and view.image_id(0) == "n02/val_3.JPEG" and view.label(0) == 1
    assert view.drop_report["images with objects of several classes"] == 1
    assert any("1 images without an object" in line for line in view.drop_messages())
    with pytest.raises(DatasetError, match="data.val: none of the 1 images"):
        OneClassDataset(BoxListDataset(_lists(tmp_path, a=text), tmp_path / "a.txt", max_images=1), "data.val")


def test_tiny_imagenet(real_data: Path) -> None:
    folder = real_data / "tiny-imagenet-200"
    val = OneClassDataset(BoxListDataset(folder / "val", folder / "boxes" / "val.txt"))
    assert len(val) == 998 and len(val.class_names) == 20 and val.size_hw(0) == (64, 64)
