"""Both ways of computing COCO's numbers: the same precision and recall to the last bit, whatever is evaluated."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detres.evaluation.coco import coco_precision_recall, evaluate_coco
from detres.evaluation.result_arrays import ResultArrays

Rows = list[dict[str, Any]]
LIMITS = ([1, 10, 100], [1, 2, 3], [100], [1], [2, 5], [3, 50, 300])


def _truth(boxes: Rows, images: int = 1, classes: int = 1) -> dict[str, Any]:
    return {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(classes)],
        "annotations": boxes,
    }


def _object(box: list[float], image: int = 0, category: int = 0, **further: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, **further}


def _found(box: list[float], score: float = 0.5, image: int = 0, category: int = 0) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def _assert_same(truth: dict[str, Any], rows: Rows, limits: tuple[int, ...] | list[int] = (1, 10, 100)) -> np.ndarray:
    """Both backends agree in every bit; returns the precision."""
    arrays = ResultArrays.from_rows(rows)
    ours, theirs = (
        coco_precision_recall(truth, arrays, max_detections=limits, backend=backend)
        for backend in ("numpy", "pycocotools")
    )
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.shape == reference.shape and mine.tobytes() == reference.tobytes()
    return ours[0]


SOME, OTHER = [10.0, 10.0, 50.0, 50.0], [30.0, 20.0, 60.0, 40.0]
CASES: dict[str, tuple[dict[str, Any], Rows]] = {
    "nothing": (_truth([], 0, 0), []),
    "no objects": (_truth([], 2), [_found(SOME, image=1)]),
    "no detections": (_truth([_object(SOME)]), []),
    "images and classes without either": (_truth([_object(SOME, 3, 2)], 6, 4), [_found(SOME, 0.5, 1, 1)]),
    "equal scores in one image": (_truth([_object(SOME)]), [_found(OTHER), _found(SOME), _found(SOME)]),
    "equal scores in two images": (
        _truth([_object(SOME, 0), _object(SOME, 1)], 2),
        [_found(SOME, image=1), _found(OTHER, image=0), _found(SOME, image=0), _found(OTHER, image=1)],
    ),
    "scores of both zeros": (_truth([_object(SOME)]), [_found(OTHER, 0.0), _found(SOME, -0.0), _found(OTHER, -1.0)]),
    "equal objects": (_truth([_object(SOME), _object(SOME, area=10.0)]), [_found(SOME, 0.9), _found(SOME, 0.8)]),
    "a crowd is found twice": (
        _truth([_object(SOME, iscrowd=1), _object(OTHER)]),
        [_found(SOME, 0.9), _found(SOME, 0.8), _found(OTHER, 0.7)],
    ),
    "an object before a crowd that fits better": (
        _truth([_object([0.0, 0.0, 100.0, 100.0], iscrowd=1), _object(SOME)]),
        [_found([10.0, 10.0, 50.0, 45.0], 0.9)],
    ),
    "crowds only": (_truth([_object(SOME, iscrowd=1)]), [_found(SOME)]),
    "areas on the borders of the ranges": (
        _truth([_object([40.0 * i, 0, 30, 30], area=a) for i, a in enumerate([1024, 9216.0, 0, 1e10, 1e11, 1023])]),
        [_found([40.0 * i, 0, 32, 32], 0.1 * i) for i in range(6)],
    ),
    "boxes without area": (_truth([_object([5.0, 5.0, 0.0, 9.0]), _object(SOME)]), [_found([5.0, 5.0, 0.0, 9.0])]),
    "integers": (_truth([_object([10, 10, 50, 50])]), [_found([10, 10, 50, 40], 1), _found([9, 10, 50, 50], 0)]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("limits", [(1, 10, 100), (1,), (2, 3)])
def test_small_cases(case: str, limits: tuple[int, ...]) -> None:
    _assert_same(*CASES[case], limits)


@pytest.mark.parametrize("share", [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0])
def test_overlaps_exactly_at_a_threshold(share: float) -> None:
    truth = _truth([_object([0.0, 0.0, 100.0, 100.0])])
    for width in np.nextafter(100 * share, [0.0, 100 * share, 200.0]):
        precision = _assert_same(truth, [_found([0.0, 0.0, float(width), 100.0])])
    assert precision[0, 0, 0, 0, 0] == pytest.approx(1.0)


def _near(rng: random.Random, box: list[float], rounded: Callable[[float], float]) -> list[float]:
    """The same box, one of an IoU at a threshold, or one nearby."""
    choice = rng.random()
    if choice < 0.3:
        return list(box)
    if choice < 0.5:
        return [*box[:2], box[2] * rng.randrange(50, 100, 5) / 100, box[3]]
    moved = [rounded(value + rng.gauss(0, 3)) for value in box[:2]]
    return moved + [rounded(value * rng.uniform(0.8, 1.2)) for value in box[2:]]


def _scenes(rng: random.Random) -> tuple[dict[str, Any], Rows]:
    """Few images with many ties: of boxes, of scores, of overlaps; crowds; areas at the borders of the ranges."""
    images, classes = rng.choice([1, 2, 5, 12]), rng.choice([1, 2, 4])
    rounded = rng.choice([lambda value: value, lambda value: 8.0 * round(value / 8), round])
    score = rng.choice([rng.random, lambda: round(rng.random(), 1), lambda: rng.choice([-0.0, 0.0, -1.5, 1e29])])
    crowds, most_objects, most_found = rng.choice([0, 0.1, 0.5]), rng.choice([2, 6, 15]), rng.choice([2, 20, 60])
    objects: Rows = []
    rows: Rows = []
    for image in range(images):
        here: list[tuple[int, list[float]]] = []
        for _ in range(rng.randint(0, most_objects)):
            side = rng.choice([4, 12, 32, 40, 96, 150])
            box = [rounded(rng.uniform(0, 60)) for _ in range(2)] + [rounded(side * rng.uniform(0.5, 2)), side]
            here.append(rng.choice(here) if here and rng.random() < 0.2 else (rng.randrange(classes), box))
            category, box = here[-1]
            objects.append(_object(box, image, category, iscrowd=int(rng.random() < crowds)))
            if rng.random() < 0.7:
                objects[-1]["area"] = rng.choice([1024, 9216.0, 0, 1e10, 1e11, 0.6 * box[2] * box[3]])
        for _ in range(rng.randint(0, most_found)):
            if here and rng.random() < 0.7:
                category, box = rng.choice(here)
                box = _near(rng, box, rounded)
            else:
                category, box = rng.randrange(classes), [rounded(rng.uniform(0, 60)) for _ in range(4)]
            rows.append(_found(box, score(), image, category))
    rng.shuffle(rows)
    return _truth(objects, images, classes), rows


def test_random_scenes() -> None:
    some = 0
    for seed in range(150):
        rng = random.Random(seed)
        some += bool((_assert_same(*_scenes(rng), rng.choice(LIMITS)) > 0).any())
    assert some > 100


def test_real_results(real_data: Path) -> None:
    folder = real_data / "eval" / "coco_val2014_100"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    rows = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    _assert_same(truth, rows)
    _assert_same(truth, rows, [1, 5, 1000])
    both = [evaluate_coco(truth, rows, backend=backend) for backend in ("numpy", "pycocotools")]
    assert both[0].to_dict() == both[1].to_dict()


def test_boxes_without_a_defined_overlap() -> None:
    size = 1e-200
    truth, rows = _truth([_object([0.0, 0.0, size, size])]), [_found([0.0, 0.0, size, size])]
    expected = evaluate_coco(truth, rows, backend="pycocotools").to_dict()
    assert evaluate_coco(truth, rows, backend="auto").to_dict() == expected
    with pytest.raises(ValueError, match="too small or too large.*auto or pycocotools"):
        evaluate_coco(truth, rows, backend="numpy")


@pytest.mark.parametrize("backend", ["numpy", "pycocotools"])
def test_boxes_beyond_single_precision_are_refused(backend: str) -> None:
    with pytest.raises(ValueError, match="entry 0 has bbox .*expected four finite numbers"):
        evaluate_coco(_truth([]), [_found([0.0, 0.0, 1e200, 1.0])], backend=backend)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend: got 'fast', expected one of auto, numpy, pycocotools"):
        evaluate_coco(_truth([]), [], backend="fast")
