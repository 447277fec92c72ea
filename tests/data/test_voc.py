"""The VOC reader on hand-made folders, on bad ones, and on real ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detres.data.annotations import DatasetError
from detres.data.image_io import ImageError
from detres.data.voc import VocDataset
from detres.data.voc_xml import read_voc_xml

SIZE = "<size><width>200</width><height>100</height><depth>3</depth></size>"


def _object(name: str, *corners: Any, difficult: int = 0) -> str:
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def _folder(tmp_path: Path, images: str = "JPEGImages", **xml: str) -> Path:
    root = tmp_path / "VOC2007"
    for name in ("Annotations", images, "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for stem, content in xml.items():
        text = content if content.startswith("<") else f"<annotation>{SIZE}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{stem}  1\n" for stem in xml))
    return root


def _xml(*objects: str) -> str:
    return f"<annotation>{SIZE}{''.join(objects)}</annotation>"


def test_images_without_objects(tmp_path: Path) -> None:
    dataset = VocDataset(_folder(tmp_path, a=_xml(), b=_xml()), "train", class_names=["x"])
    assert len(dataset) == 2 and dataset.annotations(1).boxes_xyxy.shape == (0, 4)
    assert dataset.ground_truth_coco()["annotations"] == []
    with pytest.raises(DatasetError, match="no classes"):
        VocDataset(_folder(tmp_path, a=_xml()), "train")


def test_boxes_become_continuous(tmp_path: Path) -> None:
    root = _folder(tmp_path, a=_xml(_object("dog", 1, 1, 200, 100), _object("cat", 11, 21, 30, 40.5)))
    (root / "JPEGImages" / "a.PNG").touch()
    dataset = VocDataset(root, "train")
    assert dataset.class_names == ("cat", "dog") and dataset.category_ids == (1, 2)
    assert dataset.annotations(0).boxes_xyxy.tolist() == [[0, 0, 200, 100], [10, 20, 30, 40.5]]
    assert dataset.annotations(0).labels.tolist() == [1, 0] and dataset.annotations(0).area[1] == 410
    assert dataset.image_id(0) == "a" and dataset.file(0).endswith("a.PNG") and dataset.size_hw(0) == (100, 200)


def test_difficult(tmp_path: Path) -> None:
    root = _folder(tmp_path, a=_xml(_object("x", 1, 1, 9, 9), _object("x", 5, 5, 20, 20, difficult=1)))
    for use_difficult in (False, True):
        dataset = VocDataset(root, "train", use_difficult=use_difficult)
        assert dataset.annotations(0).ignore.tolist() == [False, not use_difficult]
        assert dataset.annotations(0).difficult.tolist() == [False, True]
        assert [a["iscrowd"] for a in dataset.ground_truth_coco()["annotations"]] == [0, 1]


def test_images_without_xml_files(tmp_path: Path) -> None:
    root = _folder(tmp_path, a=_xml(), b=_xml())
    for name in ("a.xml", "b.xml"):
        (root / "Annotations" / name).unlink()
    for name, size in (("a.png", (7, 5)), ("b.png", (6, 8))):
        Image.new("RGB", size).save(root / "JPEGImages" / name)
    dataset = VocDataset(root, "train", class_names=["x", "y"], annotated=False)
    assert [dataset.size_hw(i) for i in range(2)] == [(5, 7), (8, 6)] and len(dataset.annotations(0)) == 0
    assert dataset.class_names == ("x", "y") and dataset.ground_truth_coco()["annotations"] == []
    with pytest.raises(DatasetError, match="no classes; give class_names"):
        VocDataset(root, "train", annotated=False)
    (root / "JPEGImages" / "b.png").unlink()
    with pytest.raises(ImageError, match=r"b\.jpg: the image file does not exist"):
        VocDataset(root, "train", class_names=["x"], annotated=False)


def test_classes_by_option(tmp_path: Path) -> None:
    root = _folder(tmp_path, a=_xml(_object("dog", 1, 1, 9, 9), _object("cat", 1, 1, 9, 9)))
    dataset = VocDataset(root, "train", class_names=["dog", "cow"])
    assert dataset.annotations(0).labels.tolist() == [0] and dataset.drop_report == {"an unknown class": 1}
    with pytest.raises(DatasetError, match=r"unknown class.*'cat'.*a\.xml"):
        VocDataset(root, "train", class_names=["dog", "cow"], on_bad_box="error")


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        ((5, 5, 5, 5), "zero or negative size"),
        ((9, 5, 4, 20), "zero or negative size"),
        (("nan", 5, 9, 9), "not four finite numbers"),
        (("", 5, 9, 9), "not four finite numbers"),
        (("five", 5, 9, 9), "not four finite numbers"),
        ((201, 5, 250, 9), "outside the image"),
        ((-50, 5, 0, 9), "outside the image"),
    ],
)
def test_bad_boxes(tmp_path: Path, corners: tuple[Any, ...], reason: str) -> None:
    root = _folder(tmp_path, a=_xml(_object("x", *corners), _object("x", 2, 2, 9, 9)))
    dataset = VocDataset(root, "train")
    assert list(dataset.drop_report.values()) == [1] and reason in dataset.drop_messages()[0]
    assert dataset.annotations(0).boxes_xyxy.tolist() == [[1, 1, 9, 9]]
    with pytest.raises(DatasetError, match=rf"{reason}.*a\.xml"):
        VocDataset(root, "train", on_bad_box="error")


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation></annotation>", "no usable <size>"),
        ("<annotation><size><width>0</width><height>0</height></size></annotation>", "no usable <size>"),
        ("<annotation><size><width>5</width></size></annotation>", "no usable <size>"),
        ("<annotation>", "not well-formed"),
        (f"<annotation>{SIZE}<object></object></annotation>", "no <name>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotation/>', "document type"),
    ],
)
def test_bad_xml(tmp_path: Path, xml: str, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"a\.xml.*{message}"):
        VocDataset(_folder(tmp_path, a=xml), "train")


def test_missing_pieces(tmp_path: Path) -> None:
    root = _folder(tmp_path, a=_xml(_object("x", 1, 1, 9, 9)))
    with pytest.raises(DatasetError, match=r"val\.txt.*splits are \['train'\]"):
        VocDataset(root, "val")
    with pytest.raises(DatasetError, match="is it a VOC folder"):
        VocDataset(tmp_path / "nowhere", "train")
    split = root / "ImageSets" / "Main" / "train.txt"
    split.write_text("a\nb\n")
    with pytest.raises(DatasetError, match=r"b\.xml.*does not exist"):
        VocDataset(root, "train")
    split.write_text("a\n\na\n")
    with pytest.raises(DatasetError, match="'a' is listed twice"):
        VocDataset(root, "train")
    split.write_text("\n")
    with pytest.raises(DatasetError, match="empty"):
        VocDataset(root, "train")
    split.write_text("a")
    (root / "JPEGImages").rmdir()
    with pytest.raises(DatasetError, match="no image folder"):
        VocDataset(root, "train")


def test_other_image_folder_and_missing_image(tmp_path: Path) -> None:
    dataset = VocDataset(_folder(tmp_path, images="images", a=_xml(_object("x", 1, 1, 9, 9))), "train", max_images=1)
    assert dataset.file(0).endswith("images/a.jpg"), "the place where the image should be"


def test_real_voc_against_the_published_boxes(real_data: Path) -> None:
    published = json.loads((real_data / "VOCdevkit" / "voc2007_all_boxes.json").read_text())
    count = difficult = 0
    for split in ("trainval", "test"):
        names = published["classes"]
        dataset = VocDataset(real_data / "VOCdevkit" / "VOC2007", split, class_names=names)
        assert dataset.drop_report == {}
        for i in range(len(dataset)):
            found = dataset.annotations(i)
            inclusive = found.boxes_xyxy + [1, 1, 0, 0]
            ours = zip(found.labels.tolist(), inclusive.tolist(), found.difficult.tolist(), strict=True)
            rows = [[label, *box, int(flag)] for label, box, flag in ours]
            assert sorted(rows) == sorted(published[split][dataset.image_id(i)])
        count += sum(len(dataset.annotations(i)) for i in range(len(dataset)))
        difficult += sum(int(dataset.annotations(i).difficult.sum()) for i in range(len(dataset)))
    assert (count, difficult) == (2591, 547)


def test_bccd_defects_are_reported(real_data: Path) -> None:
    dataset = VocDataset(real_data / "bccd" / "VOC2007", "val")
    assert dataset.class_names == ("Platelets", "RBC", "WBC") and len(dataset) == 87
    assert list(dataset.drop_report.values()) == [1] and "BloodImage_00338" in dataset.drop_messages()[0]


@pytest.mark.parametrize("side", ["99999999999", "1e300", "nan"])
def test_a_size_beyond_all_bounds(tmp_path: Path, side: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation><size><width>{side}</width><height>5</height></size></annotation>")
    with pytest.raises(DatasetError, match=r"a\.xml: the annotation has no usable <size>"):
        read_voc_xml(path)
