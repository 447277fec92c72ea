"""Result files: round trips, the formats of other tools, atomic writing, and clear refusals."""

import json
import os

import numpy as np
import pytest
import torch

from detres.evaluation.coco import evaluate_coco
from detres.evaluation.results import (
    coco_results,
    detections_from_results,
    read_coco_results,
    write_coco_results,
    write_results_json,
    write_voc_comp4,
)
from detres.files import atomic_file
from detres.structures import Detections


def _found(count, seed=0, classes=3):
    rng = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(count, 2, generator=rng) * 300, torch.rand(count, 2, generator=rng) * 90
    scores = torch.rand(count, generator=rng).sort(descending=True).values
    labels = torch.randint(classes, (count,), generator=rng)
    return Detections(torch.cat([corner, corner + size], dim=1), scores, labels)


def test_no_images_and_no_detections(tmp_path):
    write_coco_results(tmp_path / "none.json", [], [], [1])
    assert read_coco_results(tmp_path / "none.json") == []
    write_coco_results(tmp_path / "empty.json", [Detections.empty()], [5], [1])
    assert read_coco_results(tmp_path / "empty.json") == []
    assert len(detections_from_results([], [5], [1])[0]) == 0
    paths = write_voc_comp4(tmp_path, [], [], ["cat"])
    assert [p.read_text() for p in paths] == [""]


def test_coco_results_round_trip_bit_for_bit(tmp_path):
    found = [_found(20), _found(0), _found(7, seed=1)]
    path = tmp_path / "deep" / "results.json"
    write_coco_results(path, found, ["x", 2, 3], [10, 20, 90])
    rows = read_coco_results(path)
    assert rows == coco_results(found, ["x", 2, 3], [10, 20, 90])
    assert {row["category_id"] for row in rows} <= {10, 20, 90}
    again = detections_from_results(rows, ["x", 2, 3], [10, 20, 90], ["a", "b", "c"])
    for before, after in zip(found, again, strict=True):
        assert torch.equal(before.boxes_xyxy, after.boxes_xyxy) and torch.equal(before.scores, after.scores)
        assert torch.equal(before.labels, after.labels) and after.class_names == ("a", "b", "c")
    with pytest.raises(ValueError, match="entry 0 .*image_id 'x'"):
        detections_from_results(rows, [2, 3], [10, 20, 90])


def test_pycocotools_reads_our_file(tmp_path, capsys):
    from pycocotools.coco import COCO

    path = tmp_path / "results.json"
    write_coco_results(path, [_found(5)], [3], [10, 20, 90])
    api = COCO()
    api.dataset = {"images": [{"id": 3}], "categories": [{"id": i} for i in (10, 20, 90)], "annotations": []}
    api.createIndex()
    assert len(api.loadRes(str(path)).anns) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON file.*truncated"),
        ('[{"image_id": 1, "category_id"', "not a JSON file.*truncated"),
        ('{"annotations": []}', "expected a list.*got dict; it looks like an annotation file"),
        ("[3]", "entry 0 is int"),
        ('[{"image_id": 1, "bbox": [0, 0, 1, 1]}]', "entry 0 lacks category_id, score"),
        ('[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [0, 0, 1]}]', "four finite numbers"),
        ('[{"image_id": 1, "category_id": 1, "score": NaN, "bbox": [0, 0, 1, 1]}]', "score nan"),
        ('[{"image_id": 1, "category_id": 1, "score": "1", "bbox": [0, 0, 1, 1]}]', "score '1'"),
        ('[{"image_id": [], "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}, 3]', r"image_id \[\].*2 of 2 entries"),
        ('[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [9, 9, -1, 1]}]', "not corners"),
    ],
)
def test_bad_results_files_are_refused(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_coco_results(path)
    assert str(path) in str(error.value)


def test_missing_results_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no.json does not exist"):
        read_coco_results(tmp_path / "no.json")


def test_nan_detections_are_not_written(tmp_path):
    found = Detections(torch.zeros(1, 4), torch.tensor([float("nan")]), torch.zeros(1).long())
    with pytest.raises(ValueError, match="score nan"):
        write_coco_results(tmp_path / "results.json", [found], [1], [1])
    assert list(tmp_path.iterdir()) == []


def test_comp4_files_have_the_devkits_pixels(tmp_path):
    found = [
        Detections(torch.tensor([[9.0, 9, 50, 50], [0, 0.25, 3, 4]]), torch.tensor([0.9, 1e-5]), torch.tensor([1, 0])),
        Detections(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0.5]), torch.tensor([1])),
    ]
    paths = write_voc_comp4(tmp_path, found, ["000001", "000002"], ["cat", "a/b", "dog"], split="val")
    names = ["comp4_det_val_cat.txt", "comp4_det_val_a_b.txt", "comp4_det_val_dog.txt"]
    assert [p.name for p in paths] == names
    lines = paths[1].read_text().splitlines()
    assert lines[0].split()[0] == "000001" and [float(v) for v in lines[0].split()[2:]] == [10, 10, 50, 50]
    assert np.float32(lines[0].split()[1]) == np.float32(0.9) and lines[1] == "000002 0.5 2 3 3 4"
    assert paths[0].read_text() == "000001 9.99999975e-06 1 1.25 3 4\n" and paths[2].read_text() == ""
    with pytest.raises(ValueError, match="one comp4 file"):
        write_voc_comp4(tmp_path, [], [], ["a/b", "a_b"])
    with pytest.raises(ValueError, match="got 2 for 1 images"):
        write_voc_comp4(tmp_path, found, ["000001"], ["cat", "dog"])


def test_results_json_has_full_precision_nulls_and_reasons(tmp_path):
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "größe"}], "annotations": [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [20.0 * n, 0, 10, 10]} for n in range(3)]}  # fmt: skip
    result = evaluate_coco(truth, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 9], "score": 0.3}])
    path = tmp_path / "results.json"
    write_results_json(path, result.to_dict() | {"checkpoint": "last.pt"})
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read["metrics"] == result.metrics and read["metrics"]["AR1"] == result.metrics["AR1"] != 0
    assert read["metrics"]["APl"] is None and "96²" in read["reasons"]["APl"]
    assert read["per_class"][0]["name"] == "größe" and "APl" in read["per_class"][0]["reasons"]
    assert "-1" not in path.read_text()
    with pytest.raises(ValueError, match="NaN or infinite"):
        write_results_json(path, {"AP": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == read


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results_json(path, {"AP": 0.5})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_file, "_flush", full)
    with pytest.raises(OSError, match="cannot write .*results.json: No space left"):
        write_results_json(path, {"AP": 0.6})
    assert json.loads(path.read_text()) == {"AP": 0.5} and os.listdir(tmp_path) == ["results.json"]


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*file/results.json.*check that the folder"):
        write_results_json(tmp_path / "file" / "results.json", {})


def test_rows_of_a_matrix_stand_on_one_line(tmp_path):
    results = {"matrix": [[1, 2, -30], [4, 5, 6]], "text": "[\n  1,\n  2\n]", "floats": [1.5, 2.0], "empty": []}
    write_results_json(tmp_path / "r.json", results)
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text) == results
    assert "    [1, 2, -30],\n    [4, 5, 6]\n" in text
