"""evaluate_coco: empty cases, pycocotools' own numbers, published ones, and refusals."""

import contextlib
import copy
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest

from detres.evaluation.coco import evaluate_coco

TWELVE = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def _truth(boxes=(), images=1, categories=((1, "cat"),)):
    """Ground truth with boxes (image, category, xywh)."""
    return {
        "images": [{"id": i + 1} for i in range(images)],
        "categories": [{"id": number, "name": name} for number, name in categories],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "iscrowd": 0}
            | {"bbox": list(box), "area": box[2] * box[3]}
            for n, (image, category, box) in enumerate(boxes, 1)
        ],
    }


def _found(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def _scenes(seed, images=12, categories=4):
    """Random scenes of all sizes with crowds and near misses; ids have gaps."""
    rng = random.Random(seed)
    truth = _truth([], 0, [(3 * k + 2, f"class {k}") for k in range(categories)])
    truth["images"] = [{"id": 7 * i + 3} for i in range(images)]
    results, ids = [], [c["id"] for c in truth["categories"]]
    for image in truth["images"]:
        for _ in range(rng.randrange(9)):
            side = rng.choice([12, 40, 150])
            box = [rng.uniform(0, 300), rng.uniform(0, 300), side * rng.uniform(0.5, 2), side * rng.uniform(0.5, 2)]
            category = rng.choice(ids[:-1])
            crowd = int(rng.random() < 0.15)
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image["id"], "category_id": category, "bbox": box,
                 "area": box[2] * box[3] * rng.uniform(0.5, 1), "iscrowd": crowd}
            )  # fmt: skip
            for _ in range(rng.randrange(4)):
                moved = [value + side * rng.gauss(0, 0.12) for value in box[:2]] + box[2:]
                results.append(_found(image["id"], category, moved, round(rng.random(), 1)))
        results.append(_found(image["id"], rng.choice(ids), [5, 5, 60, 60], round(rng.random(), 1)))
    return truth, results


def _pycocotools(truth, results):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = copy.deepcopy(truth)
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("truth", [_truth(images=0, categories=()), _truth(images=0), _truth(images=2)])
def test_nothing_to_find_and_nothing_found(truth):
    result = evaluate_coco(truth, [])
    assert list(result.metrics) == TWELVE
    assert all(value is None for value in result.metrics.values())
    assert set(result.reasons) == set(TWELVE) and all("no objects" in why for why in result.reasons.values())
    assert all(row["AP"] is None and row["reasons"]["AP"] for row in result.per_class)
    assert "n/a" in result.table()


def test_nothing_to_find_but_something_found():
    result = evaluate_coco(_truth(), [_found(1, 1, [0, 0, 10, 10], 0.9)])
    assert result.metrics["AP"] is None and result.per_class[0]["num_detections"] == 1


def test_nothing_found_is_zero_with_a_note_and_missing_sizes_are_none():
    result = evaluate_coco(_truth([(1, 1, [10, 10, 50, 50])]), [])
    assert result.metrics["AP"] == 0.0 and result.metrics["AR100"] == 0.0 and result.metrics["APm"] == 0.0
    assert result.metrics["APs"] is None and "32²" in result.reasons["APs"]
    assert result.metrics["ARl"] is None and "96²" in result.reasons["ARl"]
    assert any("no detections" in note for note in result.notes)


def test_one_class_found_exactly():
    result = evaluate_coco(_truth([(1, 1, [10, 10, 50, 50])]), [_found(1, 1, [10, 10, 50, 50], 0.3)])
    assert result.metrics["AP"] == pytest.approx(1.0) and result.metrics["AR1"] == 1.0
    assert result.per_class[0] | {"AP": 1.0} == {
        **{"name": "cat", "num_ground_truth": 1, "num_crowd": 0, "num_detections": 1},
        **dict.fromkeys(["AP", "AP50", "AP75", "APm"], pytest.approx(1.0)),
        **{"APs": None, "APl": None, "AR100": 1.0},
        "reasons": {key: result.reasons[key] for key in ("APs", "APl")},
    }


def test_crowds_only():
    truth = _truth([(1, 1, [10, 10, 50, 50])])
    truth["annotations"][0]["iscrowd"] = 1
    result = evaluate_coco(truth, [_found(1, 1, [10, 10, 50, 50], 0.3)])
    assert result.metrics["AP"] is None and "crowd" in result.reasons["AP"]


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_bit_for_bit(seed):
    truth, results = _scenes(seed)
    before = copy.deepcopy((truth, results))
    result = evaluate_coco(truth, results)
    assert list(result.metrics.values()) == [None if v == -1 else v for v in _pycocotools(truth, results)]
    assert (truth, results) == before, "the caller's data must stay as they are"
    with_objects = [row["AP"] for row in result.per_class if row["num_ground_truth"]]
    assert np.mean(with_objects) == pytest.approx(result.metrics["AP"], abs=1e-12)
    assert any("1 of 4 classes have no ground truth" in note for note in result.notes)


def test_ids_of_every_kind_give_the_same_numbers():
    truth, results = _scenes(5)
    expected = evaluate_coco(truth, results).metrics
    for rows in (truth["images"], truth["annotations"], results):
        for row in rows:
            key = "image_id" if "image_id" in row else "id"
            row[key] = f"image {row[key]:06}"
    for n, row in enumerate(truth["annotations"]):
        row["id"] = n  # pycocotools itself counts whatever matches annotation 0 as false
    assert evaluate_coco(truth, results).metrics == expected


def test_area_and_iscrowd_are_filled_in():
    truth = _truth([(1, 1, [10, 10, 50, 50])])
    del truth["annotations"][0]["area"], truth["annotations"][0]["iscrowd"]
    result = evaluate_coco(truth, [_found(1, 1, [10, 10, 50, 50], 0.3)])
    assert result.metrics["APm"] == pytest.approx(1.0) and "area" not in truth["annotations"][0]
    truth["annotations"][0] |= {"area": None, "iscrowd": None}  # as some tools write what they do not know
    result = evaluate_coco(truth, [_found(1, 1, [10, 10, 50, 50], 0.3)])
    assert result.metrics["APm"] == pytest.approx(1.0) and result.metrics["APs"] is None


def test_other_limits_of_detections_name_the_recalls_and_count():
    boxes = [(1, 1, [20.0 * i, 0, 10, 10]) for i in range(6)]
    found = [_found(1, 1, box, 0.9 - 0.1 * i) for i, (_, _, box) in enumerate(boxes)]
    metrics = evaluate_coco(_truth(boxes), found, max_detections=(3, 1, 2)).metrics
    assert [metrics[f"AR{m}"] for m in (1, 2, 3)] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert metrics["AP"] == pytest.approx(51 / 101)  # recalls 0.00 to 0.50 are reached
    assert metrics["ARs"] == pytest.approx(3 / 6)
    many = [(1, 1, [20.0 * i, 0, 10, 10]) for i in range(150)]
    found = [_found(1, 1, box, 1 - 0.001 * i) for i, (_, _, box) in enumerate(many)]
    metrics = evaluate_coco(_truth(many), found, max_detections=(100, 300)).metrics
    assert metrics["AR100"] == pytest.approx(100 / 150) and metrics["AR300"] == 1.0
    assert metrics["AP"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="max_detections"):
        evaluate_coco(_truth(), [], max_detections=(0, 10))


def test_published_values_of_the_coco_api(real_data: Path):
    folder = real_data / "eval" / "coco_val2014_100"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    expected = json.loads((folder / "expected_pycocotools.json").read_text())["bbox"]
    result = evaluate_coco(truth, results)
    assert result.metrics == pytest.approx(expected, abs=1e-12)
    assert len(result.per_class) == 80
    assert {curve.iou_threshold for curve in result.curves} == {0.5, 0.75}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (_found(9, 1, [0, 0, 1, 1], 0.5), "image_id 9.*another split"),
        (_found("1", 1, [0, 0, 1, 1], 0.5), "image_id '1'"),
        (_found(1, 0, [0, 0, 1, 1], 0.5), "category_id 0.*labels counted from 0"),
        (_found(1, 1, [0, 0, 1, 1], float("nan")), "entry 0 has score nan"),
        (_found(1, 1, [0, float("inf"), 1, 1], 0.5), "four finite numbers"),
        (_found(1, 1, [5, 5, -2, 1], 0.5), "negative size"),
    ],
)
def test_bad_results_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        evaluate_coco(_truth(), [row])


def test_bad_ground_truth_is_refused():
    with pytest.raises(ValueError, match="annotation 1 .*image_id 5"):
        evaluate_coco(_truth([(5, 1, [0, 0, 1, 1])]), [])
    with pytest.raises(ValueError, match="`categories` is missing"):
        evaluate_coco({"images": [], "annotations": []}, [])


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("annotations", {"category_id": [1]}, r"annotation 7 \(image_id 4, category_id \[1\].*not listed"),
        ("annotations", {"image_id": {"a": 4}}, r"annotation 7 \(image_id \{'a': 4\}, category_id 2"),
        ("images", {"id": [4]}, r"`images` entry 0, \{'id': \[4\]\}, has no `id`"),
        ("categories", {"id": None}, r"`categories` entry 0, .* has no `id`: a number or a string"),
    ],
)
def test_ids_that_can_stand_in_no_table_are_named(part, change, message):
    entry = {"id": 7, "image_id": 4, "category_id": 2, "bbox": [0, 0, 9, 9]}
    truth = {"images": [{"id": 4}], "categories": [{"id": 2}], "annotations": [entry]}
    truth[part][0] |= change
    with pytest.raises(ValueError, match=message):
        evaluate_coco(truth, [])


def test_copies_are_noted():
    row = _found(1, 1, [10, 10, 50, 50], 0.3)
    result = evaluate_coco(_truth([(1, 1, [10, 10, 50, 50])]), [row, dict(row)])
    assert any(note.startswith("1 detections are exact copies") for note in result.notes)


def test_nothing_is_printed(capsys):
    evaluate_coco(*_scenes(1))
    assert capsys.readouterr().out == ""
