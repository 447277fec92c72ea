"""The localisation errors on predictions made by hand."""

from typing import NamedTuple

import pytest
import torch

from detres.evaluation.localization import evaluate_localization
from detres.structures import Detections

NAMES = tuple("abcdefg")


class Truth(NamedTuple):
    boxes_xyxy: list[list[float]]
    labels: list[int]
    ignore: list[bool]


def _truth(label: int, *boxes: list[float]) -> Truth:
    return Truth(list(boxes), [label] * len(boxes), [False] * len(boxes))


def _found(*rows: tuple[int, list[float]]) -> Detections:
    boxes = torch.tensor([box for _, box in rows]).reshape(-1, 4)
    scores = torch.linspace(0.9, 0.1, len(rows))
    return Detections(boxes, scores, torch.tensor([label for label, _ in rows], dtype=torch.int64))


FULL, HALF, LESS, AWAY = [0.0, 0, 10, 10], [0.0, 0, 10, 5], [0.0, 0, 10, 4.9], [20.0, 0, 30, 10]


def test_no_images() -> None:
    found = evaluate_localization([], [], NAMES, given=[])
    assert set(found.metrics.values()) == {None} and found.reasons["error_top5"] == "there are no images"
    assert "n/a" in found.table() and found.per_class == []


def test_errors_by_hand() -> None:
    truth = [
        _truth(0, FULL),  # the best guess is right, and fits with an IoU of exactly 0.5
        _truth(1, FULL),  # the class is right, its box not; the third guess is of the class too, and fits
        _truth(2, AWAY, FULL),  # one of two objects is found, by the fifth guess
        _truth(3, FULL),  # the sixth guess does not count
        _truth(4, FULL),  # nothing found
    ]
    predictions = [
        _found((0, HALF)),
        _found((1, LESS), (0, FULL), (1, FULL)),
        _found((0, FULL), (1, FULL), (3, FULL), (4, FULL), (2, FULL)),
        _found(*[(0, FULL)] * 5, (3, FULL)),
        Detections.empty(),
    ]
    given = [_found((0, HALF)), _found((1, LESS)), _found((2, FULL)), _found((3, FULL)), Detections.empty()]
    found = evaluate_localization(truth, predictions, NAMES, given=given)
    expected = {
        "error_given_class": 2 / 5, "error_top1": 4 / 5, "error_top5": 2 / 5,
        "loc_given_class": 3 / 5, "loc_top1": 1 / 5, "loc_top5": 3 / 5,
        "top1": 2 / 5, "top5": 3 / 5, "mean_iou": (0.5 + 0.49 + 1 + 1 + 0) / 5,
    }  # fmt: skip
    assert found.metrics == pytest.approx(expected) and list(found.metrics) == list(expected) and not found.reasons
    rows = {row["name"]: row for row in found.per_class}
    assert rows["c"]["num_images"] == 1 and rows["c"]["num_ground_truth"] == 2 and rows["c"]["loc_top5"] == 1.0
    assert rows["g"]["num_images"] == 0 and rows["g"]["loc_given_class"] is None
    assert found.to_dict()["kind"] == "localization" and "LOC error, top-5" in found.table()


def test_without_boxes_for_the_true_class() -> None:
    found = evaluate_localization([_truth(0, FULL)], [_found((0, FULL))], NAMES)
    assert found.metrics["error_given_class"] is None and "true class" in found.reasons["error_given_class"]
    assert found.metrics["error_top1"] == 0.0


def test_few_classes_have_no_top5_accuracy() -> None:
    found = evaluate_localization([_truth(0, FULL)], [_found((0, FULL))], NAMES[:3], given=[_found((0, FULL))])
    assert found.metrics["top5"] is None and "3 classes" in found.reasons["top5"]
    assert found.metrics["error_top5"] == 0.0


def test_ignored_objects_do_not_count() -> None:
    truth = Truth([FULL, AWAY], [0, 1], [False, True])
    found = evaluate_localization([truth], [_found((1, AWAY), (0, FULL))], NAMES)
    assert found.metrics["error_top1"] == 1.0 and found.metrics["error_top5"] == 0.0


@pytest.mark.parametrize(
    ("truth", "found", "given", "message"),
    [
        ([_truth(0, FULL)], [], None, "expected predictions for 1 images, got 0"),
        ([_truth(0, FULL)], [_found()], [], "expected given for 1 images, got 0"),
        ([_truth(0)], [_found()], None, "image number 0 has no object"),
        ([Truth([FULL, AWAY], [0, 1], [False] * 2)], [_found()], None, "objects of 2 classes"),
        ([_truth(0, FULL)], [_found((7, FULL))], None, r"classes \[7\], expected 0 ... 6"),
    ],
)
def test_wrong_input(truth: list[Truth], found: list[Detections], given: list[Detections] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_localization(truth, found, NAMES, given=given)
