"""The COCO reader on hand-made files, on bad ones, and against pycocotools on real ones."""

import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detres.data.annotations import DatasetError
from detres.data.coco import CocoDataset


def _content(**changes: Any) -> dict[str, Any]:
    """Two images and three categories whose ids have gaps; image 20 is empty."""
    content = {
        "images": [
            {"id": 20, "file_name": "b.jpg", "height": 50, "width": 40},
            {"id": 7, "file_name": "a.jpg", "height": 100, "width": 200},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 44, "name": "cow"}],
        "annotations": [_box(1, [10, 20, 30, 40]), _box(2, [150, 50, 100, 30], category_id=3, iscrowd=1, area=9.5)],
    }
    return {**content, **changes}


def _box(number: int, bbox: Any, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 7, "category_id": 90, "bbox": bbox, **changes}


def _write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _read(tmp_path: Path, content: Any, **options: Any) -> CocoDataset:
    return CocoDataset(_write(tmp_path, content), tmp_path / "images", **options)


def test_no_annotations_at_all(tmp_path: Path) -> None:
    dataset = _read(tmp_path, _content(annotations=[]))
    assert len(dataset) == 2 and len(dataset.annotations(0)) == 0
    assert dataset.annotations(0).boxes_xyxy.shape == (0, 4)
    assert dataset.ground_truth_coco()["annotations"] == [] and dataset.drop_report == {}


def test_labels_boxes_and_order(tmp_path: Path) -> None:
    dataset = _read(tmp_path, _content())
    assert dataset.class_names == ("dog", "cow", "cat") and dataset.category_ids == (3, 44, 90)
    assert [dataset.image_id(i) for i in range(2)] == [7, 20]
    assert dataset.file(0) == str(tmp_path / "images" / "a.jpg") and dataset.size_hw(0) == (100, 200)
    found = dataset.annotations(0)
    assert found.boxes_xyxy.tolist() == [[10, 20, 40, 60], [150, 50, 200, 80]], "clipped to the image"
    assert found.labels.tolist() == [2, 0] and found.labels.dtype == np.int64
    assert found.ignore.tolist() == [False, True] and found.area.tolist() == [1200, 9.5]
    assert len(dataset.annotations(1)) == 0


def test_ground_truth_keeps_the_files_ids_and_boxes(tmp_path: Path) -> None:
    truth = _read(tmp_path, _content()).ground_truth_coco()
    assert [image["id"] for image in truth["images"]] == [7, 20]
    second = {"id": 2, "image_id": 7, "category_id": 3, "bbox": [150, 50, 100, 30], "area": 9.5, "iscrowd": 1}
    assert truth["annotations"][1] == second
    json.dumps(truth)


def test_one_class_and_string_ids(tmp_path: Path) -> None:
    content = _content(
        categories=[{"id": 5, "name": "x"}],
        images=[{"id": "im/1", "file_name": "ü.jpg", "height": 9, "width": 9}],
        annotations=[{"image_id": "im/1", "category_id": 5, "bbox": [1, 1, 2, 2]}],
    )
    dataset = _read(tmp_path, content)
    assert dataset.image_id(0) == "im/1" and dataset.file(0).endswith("ü.jpg")
    assert dataset.annotations(0).labels.tolist() == [0] and dataset.annotations(0).area.tolist() == [4]


def test_choice_of_images(tmp_path: Path) -> None:
    assert _read(tmp_path, _content(), max_images=1).image_id(0) == 7
    chosen = _read(tmp_path, _content(), image_ids=[20])
    assert len(chosen) == 1 and chosen.drop_report == {}, "annotations of images not chosen are no fault"
    with pytest.raises(DatasetError, match=r"image_ids.*\[8\]"):
        _read(tmp_path, _content(), image_ids=[8])


BAD_BOXES = [
    ([1, 1, 0, 5], "zero or negative size"),
    ([1, 1, 5, -2], "zero or negative size"),
    ([math.nan, 1, 5, 5], "not four finite numbers"),
    ([1, 1, 5, math.inf], "not four finite numbers"),
    ([1, 1, 1e200, 1e200], "an area beyond all bounds"),
    ([1, 1, 5], "not four finite numbers"),
    ([1, 1, "5", None], "not four finite numbers"),
    (None, "not four finite numbers"),
    ([300, 1, 5, 5], "outside the image"),
    ([-9, 1, 5, 5], "outside the image"),
]


@pytest.mark.parametrize(("bbox", "reason"), BAD_BOXES)
def test_bad_box_is_counted_or_an_error(tmp_path: Path, bbox: Any, reason: str) -> None:
    content = _content(annotations=[_box(1, bbox), _box(2, [1, 2, 3, 4])])
    dataset = _read(tmp_path, content)
    assert list(dataset.drop_report.values()) == [1] and reason in next(iter(dataset.drop_report))
    assert dataset.annotations(0).boxes_xyxy.tolist() == [[1, 2, 4, 6]]
    assert len(dataset.ground_truth_coco()["annotations"]) == 1
    assert "annotation 1" in dataset.drop_messages()[0]
    with pytest.raises(DatasetError, match=rf"instances\.json.*{reason}"):
        _read(tmp_path, content, on_bad_box="error")


@pytest.mark.parametrize("area", [10**400, math.inf, 1e39])
def test_bad_area_is_counted_or_an_error(tmp_path: Path, area: float) -> None:
    content = _content(annotations=[_box(1, [1, 2, 3, 4]), _box(2, [1, 2, 3, 4], area=area)])
    dataset = _read(tmp_path, content)
    assert dataset.drop_report == {"an area beyond all bounds": 1} and len(dataset.annotations(0)) == 1
    assert len(dataset.drop_messages()[0]) < len(str(tmp_path)) + 200, "long numbers are cut"
    with pytest.raises(DatasetError, match=r"instances\.json.*area.*annotation 2.*area"):
        _read(tmp_path, content, on_bad_box="error")


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_unknown_image_or_category(tmp_path: Path, key: str) -> None:
    content = _content(annotations=[_box(1, [1, 2, 3, 4], **{key: 1234})])
    what = "image" if key == "image_id" else "category"
    assert _read(tmp_path, content).drop_report == {f"an unknown {what}": 1}
    with pytest.raises(DatasetError, match=f"unknown {what}.*1234"):
        _read(tmp_path, content, on_bad_box="error")


def test_duplicate_ids(tmp_path: Path) -> None:
    content = _content()
    for key, what in (("images", "image"), ("annotations", "annotation"), ("categories", "category")):
        doubled = {**content, key: [*content[key], content[key][0]]}
        with pytest.raises(DatasetError, match=rf"instances\.json: {what} id .* occurs 2 times"):
            _read(tmp_path, doubled)
    with pytest.raises(DatasetError, match="two categories are named 'x'"):
        _read(tmp_path, _content(categories=[{"id": 1, "name": "x"}, {"id": 2, "name": "x"}]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "results file"),
        ({"shapes": []}, "not a COCO instances file.*'images'"),
        ("3", "not a COCO instances file"),
        (_content(annotations={}), "'annotations'"),
        (_content(images=[1, 2]), "'images'"),
        (_content(images=[]), "empty"),
        (_content(categories=[]), "'categories' is empty"),
        (_content(categories=[{"id": 1}]), "integer id and a name"),
        (_content(images=[{"id": 1, "file_name": "a.jpg"}]), "height and width"),
        (_content(images=[{"id": 1, "file_name": "a.jpg", "height": 0, "width": 3}]), "height and width"),
        (_content(images=[{"id": 1, "file_name": "a.jpg", "height": 10**400, "width": 3}]), "image 1 .*height and"),
        ('{"images": [' + "9" * 5000 + "]}", "not JSON .*digits"),
        (_content(images=[{"id": 1, "height": 5, "width": 3}]), "no file_name"),
        (_content(images=[{"file_name": "a.jpg", "height": 5, "width": 3}]), "no usable id"),
    ],
)
def test_not_a_coco_file(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"instances\.json.*{message}"):
        _read(tmp_path, content)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no\.json.*does not exist"):
        CocoDataset(tmp_path / "no.json", tmp_path)


def _private_kib() -> int:
    """Memory of this process alone that was written to (Linux)."""
    rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("Private_Dirty")).split()[1])


def _growth(dataset: CocoDataset, pipe: Any) -> None:
    before = _private_kib()
    count = sum(len(dataset.annotations(i)) for i in range(len(dataset)) if dataset.file(i))
    pipe.send((count, _private_kib() - before))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's memory statistics")
def test_forked_workers_share_the_annotations(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i:030d}.jpg", "height": 50, "width": 50} for i in range(20_000)]
    boxes = [{**_box(i, [1, 2, 3, 4]), "image_id": i % 20_000} for i in range(60_000)]
    dataset = _read(tmp_path, _content(images=images, annotations=boxes))
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_growth, args=(dataset, theirs))
    process.start()
    count, growth_kib = ours.recv()
    process.join()
    assert count == 60_000 and growth_kib < 1024, "reading all annotations must not copy them into the worker"


def test_real_coco_as_pycocotools_reads_it(real_data: Path) -> None:
    from pycocotools.coco import COCO

    path = real_data / "coco" / "annotations" / "instances_val2017.json"
    dataset, coco = CocoDataset(path, real_data / "coco" / "val2017"), COCO(str(path))
    assert [dataset.image_id(i) for i in range(len(dataset))] == sorted(coco.imgs)
    assert len(dataset.class_names) == 80 and dataset.category_ids[-1] == 90
    theirs = {a["id"]: a for a in coco.anns.values()}
    ours = dataset.ground_truth_coco()["annotations"]
    assert len(ours) == len(theirs) == 856 and sum(a["iscrowd"] for a in ours) == 10

    def content(entry: dict[str, Any]) -> tuple[Any, ...]:
        return (entry["image_id"], entry["category_id"], *entry["bbox"], entry["area"], entry["iscrowd"])

    assert sorted(map(content, ours)) == sorted(map(content, theirs.values())), "to the last bit"


def test_numbers_beyond_all_bounds(tmp_path: Path) -> None:
    """An id of more than 64 bits is refused; a box that no float holds is counted as one without finite numbers."""
    image = {"id": 1, "file_name": "a.jpg", "height": 5, "width": 5}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10**400, 3], "area": 10**400}
    content = {"images": [image], "categories": [{"id": 1, "name": "a"}], "annotations": [box]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = CocoDataset(tmp_path / "a.json", tmp_path)
    assert len(dataset.annotations(0)) == 0 and sum(dataset.drop_report.values()) == 1
    content["images"] = [{**image, "id": 2**70}]
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"b\.json: image number 0 has no usable id: expected.*64 bits"):
        CocoDataset(tmp_path / "b.json", tmp_path)
