"""Annotations and images made to harm: each is refused by the reader's own error, which names the file."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detres.data.annotations import DatasetError
from detres.data.box_lists import BoxListDataset
from detres.data.coco import CocoDataset
from detres.data.image_io import ImageError, read_image
from detres.data.voc import VocDataset
from detres.data.voc_xml import read_voc_xml

IMAGE = {"id": 1, "file_name": "a.jpg", "height": 5, "width": 5}
SIZE = "<size><width>9</width><height>9</height></size>"


def coco(folder: Path, **parts: Any) -> CocoDataset:
    content = {"images": [IMAGE], "annotations": [], "categories": [{"id": 1, "name": "x"}], **parts}
    (folder / "a.json").write_text(json.dumps(content).replace('"deep"', "[" * 500 + "]" * 500))
    return CocoDataset(folder / "a.json", folder)


@pytest.mark.parametrize(
    "parts",
    [
        {"images": [{**IMAGE, "file_name": "\ud800"}]},
        {"images": [{**IMAGE, "id": "\ud800"}]},
        {"images": [IMAGE, {**IMAGE, "id": "1"}]},  # one image in a results file
        {"categories": [{"id": 1, "name": "\ud800"}]},
        {"categories": [{"id": 1, "name": "deep"}]},
        {"categories": [{"id": 1, "name": 1, "more": "x" * 100_000}]},
        {"categories": [{"id": "deep", "name": "x"}]},
    ],
)
def test_coco(tmp_path: Path, parts: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match=r"a\.json: ") as caught:
        coco(tmp_path, **parts)
    assert len(str(caught.value)) < 1000


def test_annotations_of_any_size_are_told_in_a_few_words(tmp_path: Path) -> None:
    rows = [{"id": "x" * 100_000, "image_id": "deep"}, {"id": 2, "image_id": 1, "category_id": "deep"}]
    dataset = coco(tmp_path, annotations=rows)
    assert dataset.drop_report == {"an unknown image": 1, "an unknown category": 1}
    assert all(len(line) < 500 for line in dataset.drop_messages())


@pytest.mark.parametrize("encoding", ["utf-7", "hex", "idna", "punycode", "undefined", "zlib", "no-such-one"])
def test_xml_in_encodings_that_run_other_code(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?><annotation>{SIZE}</annotation>')
    with pytest.raises(DatasetError, match=r"a\.xml: not well-formed XML"):
        read_voc_xml(path)


@pytest.mark.parametrize(
    "declared",
    ['[<!ENTITY x SYSTEM "file:///etc/passwd">]', '[<!ENTITY x "aa"><!ENTITY y "&x;&x;">]', 'SYSTEM "http://a/x.dtd"'],
)
def test_entities(tmp_path: Path, declared: str) -> None:
    (tmp_path / "a.xml").write_text(f"<!DOCTYPE annotation {declared}><annotation>{SIZE}</annotation>")
    with pytest.raises(DatasetError, match="declares a document type, which is refused"):
        read_voc_xml(tmp_path / "a.xml")


def test_elements_in_each_other_to_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<a>" * 100_000 + "</a>" * 100_000)
    with pytest.raises(DatasetError, match="no usable <size>"):
        read_voc_xml(tmp_path / "a.xml")


@pytest.mark.parametrize("split", ["a\0b", "../../../etc/passwd", "nul", "twice"])
def test_lists_of_images(tmp_path: Path, split: str) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/nul.txt").write_text("a\0b\n")
    (tmp_path / "ImageSets/Main/twice.txt").write_text("".join(f"{i}\n" for i in range(100_000)) + "99999\n")
    with pytest.raises(DatasetError):
        VocDataset(tmp_path, split)


def test_postscript_is_not_run(tmp_path: Path) -> None:
    eps = io.BytesIO()
    Image.new("RGB", (8, 8)).save(eps, "EPS")
    (tmp_path / "n_1.jpg").write_bytes(eps.getvalue())
    with pytest.raises(ImageError, match=r"n_1\.jpg: not an image in a known format"):
        read_image(tmp_path / "n_1.jpg")
    (tmp_path / "boxes.txt").write_text("n_1.jpg 1 1 2 2\n")
    with pytest.raises(ImageError, match=r"n_1\.jpg"):
        BoxListDataset(tmp_path, tmp_path / "boxes.txt")
