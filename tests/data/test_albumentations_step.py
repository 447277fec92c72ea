"""albumentations as a step: its traps are closed."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from detres.data.transforms import DetectionTransforms, Transformed

IMAGE = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
HARD_BOXES = [
    [0, 0, 120, 80],
    [10, 10, 40, 50],
    [100, 60, 120.01, 80.01],
    [130, 90, 150, 95],
    [5, 5, 5, 9],
    [-9, -9, -1, -1],
    [-5, 20, 30, 40],
]


def _run(name: str, boxes: Any, seed: int = 0, before: tuple[Any, ...] = (), **args: Any) -> Transformed:
    steps = [*before, {"type": "albumentations", "name": name, "args": args}]
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return DetectionTransforms(steps)(IMAGE, boxes, np.arange(len(boxes)) + 7, np.zeros(len(boxes), bool), seed)


NAMES = ["Affine", "RandomBrightnessContrast", "HueSaturationValue", "Blur", "Rotate", "RandomRotate90", "Perspective"]


@pytest.mark.parametrize("name", NAMES)
def test_without_boxes(name: str) -> None:
    made = _run(name, [], p=1.0)
    assert made.boxes_xyxy.shape == (0, 4) and made.labels.dtype == np.int64 and made.num_dropped == 0


@pytest.mark.parametrize("name", NAMES)
def test_bad_boxes_do_not_stop_it(name: str) -> None:
    made = _run(name, HARD_BOXES, p=1.0)
    assert made.labels.dtype == np.int64 and set(made.labels.tolist()) <= {7, 8, 9, 13}
    assert made.num_dropped == len(HARD_BOXES) - len(made.labels)
    height, width = made.image.shape[:2]
    assert (made.boxes_xyxy >= 0).all() and (made.boxes_xyxy <= [width, height, width, height]).all()


def test_boxes_and_labels_follow() -> None:
    made = _run("HorizontalFlip", [[10, 20, 40, 50], [60, 0, 120, 80]], p=1.0)
    np.testing.assert_allclose(made.boxes_xyxy, [[80, 20, 110, 50], [0, 0, 60, 80]], atol=1e-3)
    assert made.labels.tolist() == [7, 8] and (made.image == IMAGE[:, ::-1]).all()


def test_after_a_flip_and_a_resize() -> None:
    before = ({"type": "horizontal_flip", "p": 1.0}, {"type": "resize", "height": 40, "width": 60})
    made = _run("VerticalFlip", [[10, 20, 40, 50]], before=before, p=1.0)
    np.testing.assert_allclose(made.boxes_xyxy, [[40, 15, 55, 30]], atol=1e-3)


def test_the_seed_decides_alone() -> None:
    args = {"brightness_limit": 0.5, "p": 1.0}
    first = _run("RandomBrightnessContrast", HARD_BOXES, seed=2**62 + 3, **args)
    np.random.seed(0)
    assert (_run("RandomBrightnessContrast", HARD_BOXES, seed=2**62 + 3, **args).image == first.image).all()
    assert len({_run("RandomBrightnessContrast", [], seed=s, **args).image.tobytes() for s in range(8)}) == 8


def test_nested() -> None:
    choice = [{"name": "HorizontalFlip", "args": {"p": 1.0}}, {"name": "VerticalFlip"}]
    made = _run("OneOf", [[10, 20, 40, 50]], transforms=choice, p=1.0)
    assert (made.image == IMAGE[:, ::-1]).all() or (made.image == IMAGE[::-1]).all()
    with pytest.raises(ValueError, match="list of {name, args}"):
        _run("OneOf", [], transforms=["HorizontalFlip"])


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("HorizontalFlop", {}, "no transform 'HorizontalFlop'; did you mean 'HorizontalFlip'"),
        ("Compose", {"nonsense": 1}, "unknown argument 'nonsense'"),
        ("Rotate", {"limits": 10}, "Rotate: unknown argument 'limits'; did you mean 'limit'"),
        ("Rotate", {"limit": "far"}, "albumentations Rotate"),
        ("RandomCrop", {}, "albumentations RandomCrop.*height"),
        ("CoarseDropout3D", {}, "does not support boxes"),
        ("ToTensorV2", {}, "does not support boxes"),
        ("Mosaic", {}, "needs .*mosaic_metadata"),
    ],
)
def test_refused_when_built(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        DetectionTransforms([{"type": "albumentations", "name": name, "args": args}])


def test_refused_when_run() -> None:
    with pytest.raises(ValueError, match="Normalize made pixels.*float32.*expected"):
        _run("Normalize", [])
    with pytest.raises(ValueError, match="Crop failed on an image of 120 x 80"):
        _run("Crop", [], x_max=500, y_max=500)


def test_imported_on_need_and_without_a_question_to_a_server() -> None:
    code = """
import os, sys
import detres.data.coco, detres.data.loader
print("albumentations" in sys.modules, "cv2" in sys.modules)
import detres.data.albumentations_step
print(os.environ["NO_ALBUMENTATIONS_UPDATE"])
"""
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", "False", "1"] and "version" not in done.stderr
