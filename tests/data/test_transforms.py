"""Our own transforms: sizes against detectron2, pixels against Pillow, boxes against painted rectangles."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detres.data.scene import resize_image, shortest_edge_size
from detres.data.transforms import DetectionTransforms, Transformed

FLIP = {"type": "horizontal_flip", "p": 1.0}
EVERY_STEP: list[dict[str, Any]] = [
    {"type": "resize_shortest", "short": [60, 90, 120], "max": 150},
    {"type": "resize", "height": 70, "width": 130},
    {"type": "horizontal_flip", "p": 0.5},
    {"type": "large_scale_jitter", "size": 96, "min_scale": 0.5, "max_scale": 2.0},
    {"type": "random_crop", "height": 60, "width": 70},
    {"type": "center_crop", "size": 64},
    {"type": "random_resized_crop", "size": 64, "scale": [0.4, 1.0]},
]


def _run(steps: list[dict[str, Any]], image: np.ndarray, boxes: Any, seed: int = 0, **options: Any) -> Transformed:
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    labels, ignore = np.arange(len(boxes)), np.arange(len(boxes)) % 2 == 1
    return DetectionTransforms(steps, **options)(image, boxes, labels, ignore, seed)


def _painted(boxes: list[list[int]], height: int = 100, width: int = 140) -> np.ndarray:
    """A black image with a white rectangle in each channel where a box is."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2, channel] = 255
    return image


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: step["type"])
def test_without_boxes(step: dict[str, Any]) -> None:
    made = _run([step], _painted([]), [])
    assert made.boxes_xyxy.shape == (0, 4) and made.labels.shape == (0,) and made.num_dropped == 0
    assert made.image.dtype == np.uint8 and made.image.flags.c_contiguous
    assert made.labels.dtype == np.int64 and made.ignore.dtype == bool


def test_no_steps_leave_everything() -> None:
    image = _painted([[10, 20, 50, 60]])
    made = _run([], image, [[10, 20, 50, 60]])
    assert (made.image == image).all() and made.boxes_xyxy.tolist() == [[10, 20, 50, 60]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: step["type"])
def test_boxes_follow_the_pixels(step: dict[str, Any], seed: int) -> None:
    boxes = [[20, 30, 60, 80], [70, 10, 130, 50], [40, 40, 100, 90]]
    made = _run([step], _painted(boxes), boxes, seed)
    for box, label in zip(made.boxes_xyxy, made.labels, strict=True):
        rows, columns = np.nonzero(made.image[:, :, label] >= 128)
        painted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box, painted, atol=1.01)
    gone = set(range(3)) - set(made.labels.tolist())
    assert made.num_dropped == len(gone)
    for label in gone:
        assert (made.image[:, :, label] > 128).sum() <= 2 * max(made.image.shape), "at most a sliver is left"
    assert (made.ignore == (made.labels % 2 == 1)).all()


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: step["type"])
def test_the_seed_decides_alone(step: dict[str, Any]) -> None:
    image, boxes = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8), [[10, 10, 80, 80]]
    first = _run([step], image, boxes, 5)
    np.random.seed(1)
    again = _run([step], image, boxes, 5)
    assert (first.image == again.image).all() and (first.boxes_xyxy == again.boxes_xyxy).all()
    results = {_run([step], image, boxes, seed).image.tobytes() for seed in range(12)}
    assert (len(results) > 1) == (step["type"] not in ("resize", "center_crop"))


def test_sizes_are_detectron2s(golden: Path) -> None:
    for case in json.loads((golden / "blocks.json").read_text())["resize_shortest_edge"]:
        assert shortest_edge_size(case["hw"], case["short"], case["max"]) == tuple(case["out_hw"])


def test_extreme_shapes_keep_a_pixel() -> None:
    assert shortest_edge_size((1, 5000), 800, 1333) == (1, 1333)
    step = {"type": "resize_shortest", "short": [8], "max": 10}
    made = _run([step], np.zeros((1, 900, 3), np.uint8), [[0, 0, 900, 1]])
    assert made.image.shape == (1, 10, 3) and made.boxes_xyxy.tolist() == [[0, 0, 10, 1]]


@pytest.mark.parametrize("size_hw", [(160, 213), (800, 1066), (333, 640), (480, 200), (700, 300), (1, 1)])
def test_pixels_are_pillows(size_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    pillow = np.array(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize_image(image, size_hw).astype(int) - pillow).max() <= 1


def test_flip_is_its_own_inverse() -> None:
    image, boxes = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8), [[1, 2, 5, 8]]
    assert _run([FLIP], image, boxes).boxes_xyxy.tolist() == [[7, 2, 11, 8]]
    assert (_run([FLIP, FLIP], image, boxes).image == image).all()
    view = image[2:7, 3:10]
    assert (_run([FLIP], view, []).image == view[:, ::-1]).all()


def test_a_given_image_is_never_written_to() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    before, same_size = image.copy(), {"type": "resize", "height": 9, "width": 12}
    for steps in ([FLIP], [same_size, FLIP], [{"type": "center_crop", "size": 99}, FLIP], [same_size, FLIP, FLIP]):
        made = _run(steps, image, [])
        assert (image == before).all() and (made.image == (before if len(steps) == 3 else before[:, ::-1])).all()
    enlarged = _run([{"type": "resize", "height": 20, "width": 31}], image, []).image
    mirrored = _run([{"type": "resize", "height": 20, "width": 31}, FLIP], image, []).image
    assert (mirrored == enlarged[:, ::-1]).all() and (image == before).all()


def test_clipped_and_dropped() -> None:
    boxes = [[-5, -5, 20, 20], [130, 90, 150, 110], [150, 10, 160, 20], [10, 10, 10.5, 40], [5, 5, 5, 5]]
    made = _run([], _painted([]), boxes)
    assert made.boxes_xyxy.tolist() == [[0, 0, 20, 20], [130, 90, 140, 100]] and made.num_dropped == 3
    assert made.labels.tolist() == [0, 1] and made.ignore.tolist() == [False, True]
    assert len(_run([], _painted([]), boxes, min_box_size=0.0).boxes_xyxy) == 3, "empty ones go in any case"
    assert len(_run([], _painted([]), boxes, min_box_size=15.0).boxes_xyxy) == 1


def test_large_scale_jitter_covers_its_range() -> None:
    step = {"type": "large_scale_jitter", "size": 100, "min_scale": 0.1, "max_scale": 2.0}
    sizes = [_run([step], _painted([]), [], seed).image.shape[:2] for seed in range(60)]
    assert max(max(size) for size in sizes) == 100 and min(min(size) for size in sizes) < 30


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "horizontal_flop"}, "unknown type 'horizontal_flop'; did you mean 'horizontal_flip'"),
        ({"type": "zzz"}, "known are albumentations, center_crop"),
        ({}, "unknown type None"),
        ({"type": "resize_shortest", "shrt": [5]}, "unknown argument 'shrt'; did you mean 'short'"),
        ({"type": "center_crop"}, "number 1 .center_crop.*size"),
    ],
)
def test_bad_steps(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionTransforms([FLIP, step])
