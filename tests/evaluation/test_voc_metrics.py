"""evaluate_voc: empty cases, the devkit's numbers, published ones, and a naive reading of the devkit's rule."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detres.evaluation.voc import VocGroundTruth, average_precision, evaluate_voc
from detres.structures import Detections


def _truth(boxes=(), labels=(), difficult=None):
    difficult = [False] * len(labels) if difficult is None else difficult
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return VocGroundTruth(boxes, np.array(labels, np.int64), np.array(difficult, bool))


def _found(boxes=(), scores=(), labels=()):
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


@pytest.mark.parametrize(("truth", "found"), [([], []), ([_truth()], [Detections.empty()])])
def test_nothing_to_find_and_nothing_found(truth, found):
    result = evaluate_voc(truth, found, ["cat"])
    assert result.metrics == dict.fromkeys(["AP", "AP50", "AP_11point", "AP50_11point"])
    assert set(result.reasons) == set(result.metrics)
    assert result.per_class[0]["AP50"] is None and "no cat" in result.per_class[0]["reasons"]["AP50"]


def test_no_classes():
    assert evaluate_voc([], [], []).metrics["AP"] is None


def test_nothing_to_find_but_something_found():
    result = evaluate_voc([_truth()], [_found([[0, 0, 9, 9]], [0.5], [0])], ["cat"])
    assert result.metrics["AP50"] is None and result.per_class[0]["num_detections"] == 1


def test_nothing_found_is_zero_and_difficult_objects_alone_are_none():
    truth = _truth([[0, 0, 9, 9], [0, 0, 9, 9]], [0, 1], [False, True])
    result = evaluate_voc([truth], [Detections.empty()], ["cat", "dog"])
    assert result.metrics["AP50"] == 0.0 and result.per_class[0]["AP50"] == 0.0
    assert result.per_class[1]["AP50"] is None and result.per_class[1]["num_difficult"] == 1
    assert any("1 of 2 classes" in note for note in result.notes)


def test_ignored_regions_are_excused_like_difficult_objects():
    crowd = SimpleNamespace(**_truth([[0, 0, 9, 9], [20, 0, 29, 9]], [0, 0])._asdict(), ignore=np.array([True, False]))
    found = _found([[0, 0, 9, 9], [20, 0, 29, 9]], [0.9, 0.8], [0, 0])
    result = evaluate_voc([crowd], [found], ["cat"])
    assert result.metrics["AP50"] == 1.0 and result.per_class[0]["num_ground_truth"] == 1


@pytest.fixture(scope="module")
def devkit_case(golden: Path):
    return json.loads((golden / "blocks.json").read_text())["voc_ap"]


def _devkit_inputs(case, shift):
    """The recorded boxes as our arrays; `shift` is taken off x1 and y1."""
    names = sorted(case["detections"])
    off = np.array([shift, shift, 0, 0])
    truth = [
        _truth([np.array(o["box"]) - off for o in objects], [names.index(o["name"]) for o in objects],
               [bool(o["difficult"]) for o in objects])
        for objects in case["ground_truth"].values()
    ]  # fmt: skip
    found = []
    for image in case["ground_truth"]:
        rows = [(d, k) for k, name in enumerate(names) for d in case["detections"][name] if d["image"] == image]
        boxes = [(np.array(d["box"]) - off).tolist() for d, _ in rows]
        found.append(_found(boxes, [d["score"] for d, _ in rows], [k for _, k in rows]))
    return names, truth, found


@pytest.mark.parametrize(("shift", "plus_one"), [(1, False), (0, True)])
def test_the_devkits_numbers(devkit_case, shift, plus_one):
    names, truth, found = _devkit_inputs(devkit_case, shift)
    result = evaluate_voc(truth, found, names, iou_thresholds=(0.5, 0.75), plus_one=plus_one)
    rows = {row["name"]: row for row in result.per_class}
    curves = {(c.class_name, c.iou_threshold): c for c in result.curves}
    for key, expected in devkit_case["results"].items():
        name, _, threshold, way = key.split()
        column = f"AP{100 * float(threshold):g}" + ("_11point" if way == "11-point" else "")
        assert rows[name][column] == pytest.approx(expected["ap"], abs=1e-12), key
        curve = curves[name, float(threshold)]
        assert curve.recall.tolist() == pytest.approx(expected["recall"], abs=1e-12)
        assert curve.precision.tolist() == pytest.approx(expected["precision"], abs=1e-12)
    at_half = [rows[name]["AP50"] for name in names]
    assert result.metrics["AP50"] == pytest.approx(np.mean(at_half))
    assert result.metrics["AP"] == pytest.approx((result.metrics["AP50"] + result.metrics["AP75"]) / 2)


def test_published_case(real_data: Path):
    folder = real_data / "eval" / "voc_case1"
    expected = json.loads((folder / "expected.json").read_text())

    def read(file):
        rows = [[float(word) for word in line.split()[1:]] for line in file.read_text().splitlines() if line.strip()]
        return np.array(rows).reshape(len(rows), -1)

    def corners(xywh):
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)

    truth, found = [], []
    for file in sorted((folder / "gts").glob("*.txt")):
        boxes, rows = read(file), read(folder / "dets" / file.name)
        truth.append(_truth(corners(boxes), [0] * len(boxes)))
        found.append(_found(corners(rows[:, 1:]).tolist(), rows[:, 0].tolist(), [0] * len(rows)))
    result = evaluate_voc(truth, found, ["object"], iou_thresholds=(0.1, 0.3, 0.5, 0.75), plus_one=True)
    for threshold in (0.1, 0.3, 0.5, 0.75):
        key = f"AP{100 * threshold:g}"
        assert result.metrics[key] == pytest.approx(expected["every_point"][str(threshold)], abs=1e-9)
        assert result.metrics[f"{key}_11point"] == pytest.approx(expected["eleven_point"][str(threshold)], abs=1e-9)


def _naive(truth, found, k, threshold):
    """The devkit's loop over the detections of class k, read literally: running true and false counts."""
    rows = [
        (score, i, box)
        for i, d in enumerate(found)
        for score, box, label in zip(d.scores.tolist(), d.boxes_xyxy.tolist(), d.labels.tolist(), strict=True)
        if label == k
    ]
    taken, true, false, counts = set(), 0, 0, []
    for _, i, box in sorted(rows, key=lambda row: -row[0]):
        best, best_j = -np.inf, -1
        for j, other in enumerate(truth[i].boxes_xyxy.astype(float)):
            width, height = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
            if truth[i].labels[j] != k or width <= 0 or height <= 0:
                continue
            union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)) - width * height
            if width * height / union > best:
                best, best_j = width * height / union, j
        if best > threshold:
            if not truth[i].difficult[best_j]:
                true, false = (true, false + 1) if (i, best_j) in taken else (true + 1, false)
                taken.add((i, best_j))
        else:
            false += 1
        counts.append((true, false))
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_naive_loop(seed):
    rng = random.Random(seed)
    truth, found = [], []
    for _ in range(8):
        n, m = rng.randrange(6), rng.randrange(14)
        corner = [(rng.randrange(30), rng.randrange(30)) for _ in range(n + m)]
        boxes = [[x, y, x + rng.randrange(5, 30), y + rng.randrange(5, 30)] for x, y in corner]
        truth.append(_truth(boxes[:n], [rng.randrange(3) for _ in range(n)], [rng.random() < 0.3 for _ in range(n)]))
        scores = [round(rng.random(), 1) for _ in range(m)]
        found.append(_found(boxes[n:], scores, [rng.randrange(3) for _ in range(m)]))
    result = evaluate_voc(truth, found, ["a", "b", "c"], iou_thresholds=(0.3,))
    for curve, k in ((curve, "abc".index(curve.class_name)) for curve in result.curves):
        counts = np.array(_naive(truth, found, k, 0.3), dtype=float).reshape(-1, 2)
        total = result.per_class[k]["num_ground_truth"]
        assert curve.recall.tolist() == (counts[:, 0] / total).tolist()
        expected = counts[:, 0] / np.maximum(counts.sum(axis=1), 1e-16)
        assert curve.precision.tolist() == expected.tolist()


def test_average_precision_by_hand():
    assert average_precision(np.zeros(0), np.zeros(0)) == 0.0
    assert average_precision(np.zeros(0), np.zeros(0), eleven_points=True) == 0.0
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    assert average_precision(recall, precision) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision(recall, precision, eleven_points=True) == pytest.approx((6 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([_truth()], [], "expected detections for 1 images, got 0"),
        ([_truth()], [_found([[0, 0, 1, 1]], [0.5], [3])], "labels must be 0..0, got 3..3"),
        ([_truth([[0, 0, 1, 1]], [-1])], [_found()], "ground truth of image 0"),
        ([_truth()], [_found([[0, 0, 1, 1]], [float("nan")], [0])], "NaN"),
    ],
)
def test_bad_input_is_refused(truth, found, message):
    with pytest.raises(ValueError, match=message):
        evaluate_voc(truth, found, ["cat"])
    with pytest.raises(ValueError, match="iou_thresholds"):
        evaluate_voc([], [], ["cat"], iou_thresholds=(50,))
