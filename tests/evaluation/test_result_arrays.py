"""ResultArrays: the same rows as a list of dicts holds, and the same refusals."""

import json
import pickle
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from detres.evaluation import results
from detres.evaluation.result_arrays import ResultArrays
from detres.structures import Detections


def _found(count: int, seed: int = 0, classes: int = 3) -> Detections:
    rng = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(count, 2, generator=rng) * 300, torch.rand(count, 2, generator=rng) * 90
    scores = torch.rand(count, generator=rng).sort(descending=True).values
    return Detections(torch.cat([corner, corner + size], 1), scores, torch.randint(classes, (count,), generator=rng))


@pytest.mark.parametrize("detections", [[], [Detections.empty()], [Detections.empty()] * 3])
def test_nothing(detections: list[Detections], tmp_path: Path) -> None:
    ids = list(range(len(detections)))
    arrays = ResultArrays.from_detections(detections, ids, [])
    assert len(arrays) == 0 and arrays.rows() == [] and arrays.boxes_xywh.shape == (0, 4)
    assert [len(found) for found in arrays.to_detections(ids, [])] == [0] * len(ids)
    results.write_result_arrays(tmp_path / "none.json", arrays)
    assert (tmp_path / "none.json").read_text() == "[]"
    assert len(results.read_result_arrays(tmp_path / "none.json")) == 0


def test_rows_are_those_of_the_detections() -> None:
    found = [_found(20), _found(0), _found(7, seed=1)]
    arrays = ResultArrays.from_detections(found, ["x", 2, 3], [10, 20, 90])
    expected = [row for one, name in zip(found, ["x", 2, 3], strict=True) for row in one.to_coco(name, [10, 20, 90])]
    assert arrays.rows() == expected and arrays.rows(5, 9) == expected[5:9]
    again = ResultArrays.from_rows(expected)
    assert again.rows() == expected
    assert again.image_ids == ["x", 3], "only ids that occur"
    images, categories = again.ranked([3, "x"], [90, 10])
    assert images.tolist() == [1] * 20 + [0] * 7 and set(categories.tolist()) <= {0, 1, -1}


def test_detections_stay_as_they_are() -> None:
    found = _found(5)
    kept = found.boxes_xyxy.clone()
    ResultArrays.from_detections([found], [0], [0, 1, 2])
    double = Detections(kept.double().requires_grad_(), found.scores.bfloat16(), found.labels)
    arrays = ResultArrays.from_detections([double], [0], [0, 1, 2])
    assert torch.equal(found.boxes_xyxy, kept) and torch.equal(double.boxes_xyxy, kept.double())
    assert arrays.scores.tolist() == double.scores.tolist()


def test_detections_of_one_image_are_pickled_alone() -> None:
    arrays = ResultArrays.from_detections([_found(2000), _found(1)], [0, 1], [0, 1, 2])
    assert len(pickle.dumps(arrays.to_detections([0, 1], [0, 1, 2])[1])) < 5_000


def test_labels_without_a_category_are_refused() -> None:
    with pytest.raises(ValueError, match="labels 0 to 2, expected 0 to 1"):
        ResultArrays.from_detections([_found(30)], [0], [5, 6])
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        ResultArrays.from_detections([_found(1)], [0, 1], [5, 6, 7])


def test_rows_of_unusual_kinds_that_are_right() -> None:
    row = {"image_id": True, "category_id": "a", "bbox": (np.float64(1), 2, 3, 4), "score": np.float64(0.5)}
    arrays = ResultArrays.from_rows([MappingProxyType(row), {**row, "image_id": 1}])
    assert arrays.boxes_xywh.tolist() == [[1, 2, 3, 4]] * 2
    assert arrays.images.tolist() == [0, 0], "True is 1"


@pytest.mark.parametrize("wrong", [10**400, True, None, "1", Fraction(1, 2)])
def test_numbers_of_other_kinds_are_refused(wrong: object) -> None:
    good = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
    with pytest.raises(ValueError, match="entry 1 has score"):
        ResultArrays.from_rows([good, {**good, "score": wrong}])
    with pytest.raises(ValueError, match="mine: entry 1 has bbox"):
        ResultArrays.from_rows([good, {**good, "bbox": [0, 0, wrong, 1]}], "mine")


@pytest.mark.parametrize("at_once", [1, 2, 5, 27, 100])
def test_files_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(results, "_ROWS_AT_ONCE", at_once)
    arrays = ResultArrays.from_detections([_found(20), _found(7, seed=1)], ["ä", 2], [10, 20, 90])
    results.write_result_arrays(tmp_path / "found.json", arrays)
    assert (tmp_path / "found.json").read_text() == json.dumps(arrays.rows())
    assert results.read_result_arrays(tmp_path / "found.json").rows() == arrays.rows()


def test_nothing_is_written_of_bad_detections(tmp_path: Path) -> None:
    arrays = ResultArrays.from_detections([_found(3)], [0], [10, 20, 90])
    arrays.boxes_xywh[1, 2] = -1
    with pytest.raises(ValueError, match="found.json: entry 1 has bbox .* of negative size"):
        results.write_result_arrays(tmp_path / "found.json", arrays)
    assert list(tmp_path.iterdir()) == []
