"""The user's own data: a COCO file, or a folder of XML files without VOC's layout; holding images out."""

import json
from pathlib import Path

import pytest

from detres.data.annotations import DatasetError
from detres.data.own import XmlFolderDataset, hold_out, open_own_data

XML = """<annotation><size><width>40</width><height>30</height></size><object><name>{name}</name>
<bndbox><xmin>3</xmin><ymin>2</ymin><xmax>20</xmax><ymax>10</ymax></bndbox></object></annotation>"""


def _write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_without_annotations(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"xml: no \*\.xml there"):
        XmlFolderDataset(tmp_path / "xml", tmp_path)


def test_xml_files_find_their_images(tmp_path: Path) -> None:
    for name, label in (("b", "dog"), ("day/a", "cat"), ("day/c", "dog"), ("e", "dog")):
        _write(tmp_path / "xml" / f"{name}.xml", XML.format(name=label))
    _write(tmp_path / "xml" / "classes.txt", "dog\ncat")  # some programs leave such files
    for name in ("b.PNG", "day/a.jpg", "elsewhere/c.jpeg", "a.png", "unlabelled.jpg"):
        _write(tmp_path / "images" / name)
    dataset = open_own_data(tmp_path / "xml", tmp_path / "images")
    assert [dataset.image_id(i) for i in range(len(dataset))] == ["b", "day/a", "day/c", "e"]
    files = [Path(dataset.file(i)).relative_to(tmp_path / "images").as_posix() for i in range(4)]
    assert files == ["b.PNG", "day/a.jpg", "elsewhere/c.jpeg", "e.jpg"]  # the last is missing: reading it says so
    assert dataset.class_names == ("cat", "dog") and dataset.category_ids == (1, 2)
    assert dataset.annotations(2).boxes_xyxy.tolist() == [[2, 1, 20, 10]]
    assert dataset.annotations(2).labels.tolist() == [1] and dataset.size_hw(2) == (30, 40)


def test_no_image_at_all(tmp_path: Path) -> None:
    _write(tmp_path / "xml" / "a.xml", XML.format(name="cat"))
    with pytest.raises(DatasetError, match=r"images: none of the 1 annotated images is there \(the first: a\.jpg\)"):
        open_own_data(tmp_path / "xml", tmp_path / "images")


def test_a_json_file_is_cocos(tmp_path: Path) -> None:
    box = {"id": 1, "image_id": 5, "category_id": 42, "bbox": [1, 2, 3, 4]}
    content = {
        "images": [{"id": 5, "file_name": "x.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 42, "name": "cell"}],
        "annotations": [box],
    }
    _write(tmp_path / "a.json", json.dumps(content))
    dataset = open_own_data(tmp_path / "a.json", tmp_path)
    assert dataset.category_ids == (42,) and dataset.annotations(0).labels.tolist() == [0]


@pytest.mark.parametrize(("count", "share", "held"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.2, 2), (1000, 0.25, 250)])
def test_holding_out(count: int, share: float, held: int) -> None:
    kept, out = hold_out(range(count), share)
    assert len(out) == held and sorted([*kept, *out]) == list(range(count))
    assert kept.tolist() == sorted(kept) and out.tolist() == sorted(out)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_to_hold_any_out(count: int) -> None:
    with pytest.raises(DatasetError, match=f"at least 2 training images.*found {count}"):
        hold_out(range(count), 0.2)


def test_what_is_held_out_goes_by_the_ids_alone() -> None:
    names = [f"image_{i}" for i in range(100)]
    _, out = hold_out(names, 0.2)
    _, again = hold_out(names[::-1], 0.2)
    assert {names[i] for i in out} == {names[99 - i] for i in again}
    more = [*names, *(f"new_{i}" for i in range(10))]
    _, grown = hold_out(more, 0.2)
    assert len({names[i] for i in out} & {more[i] for i in grown}) >= 17
