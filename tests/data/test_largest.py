"""The largest batch that a data set can make."""

import numpy as np
import pytest
import torch

from detres.data.largest import full_batch, largest_size_hw
from detres.data.transforms import DetectionTransforms


def largest(sizes: list[tuple[int, int]], *steps: dict) -> tuple[int, int]:
    return largest_size_hw(np.array(sizes).reshape(-1, 2), DetectionTransforms(steps))


def test_no_images():
    with pytest.raises(ValueError, match="the training set is empty"):
        largest([])


def test_without_transforms_the_highest_and_the_widest():
    assert largest([(40, 90), (70, 50), (60, 60)]) == (70, 90)


def test_shorter_sides_go_by_the_most_elongated_images():
    sizes = [(48, 64), (64, 48), (60, 60), (20, 50), (30, 24)]
    resize = {"type": "resize_shortest", "short": [20, 40, 60], "max": 100}
    # upright: 64x48 grows to 80x60; flat: 20x50 to 40x100, cut off at 100
    assert largest(sizes, resize) == (80, 100)


def test_what_is_random_is_near_its_largest():
    assert largest([(200, 300)], {"type": "random_resized_crop", "size": 32}) == (32, 32)
    jitter = {"type": "large_scale_jitter", "size": 64, "min_scale": 0.1, "max_scale": 2.0}
    assert largest([(100, 100), (50, 200)], jitter) == (64, 64)
    flip = {"type": "horizontal_flip"}
    assert largest([(20, 30)], flip, {"type": "resize", "height": 7, "width": 9}) == (7, 9)


def test_a_full_batch_of_a_detector():
    batch = full_batch(3, (40, 70), 32, num_classes=5, num_objects=4)
    assert batch.images.pixels.shape == (3, 3, 64, 96) and batch.images.sizes_hw.tolist() == [[40, 70]] * 3
    boxes = batch.targets.boxes_xyxy
    assert boxes.shape == (3, 4, 4) and bool((boxes[..., :2] <= boxes[..., 2:]).all()) and batch.targets.valid.all()
    assert bool((boxes >= 0).all()) and bool((boxes <= torch.tensor([70.0, 40.0, 70.0, 40.0])).all())
    assert set(batch.targets.labels.flatten().tolist()) <= set(range(5))
    assert full_batch(2, (8, 8), 1, num_classes=5, num_objects=0).targets.boxes_xyxy.shape == (2, 0, 4)


def test_a_full_batch_of_a_classifier():
    batch = full_batch(3, (8, 9), 1, num_classes=5, num_objects=None)
    assert batch.images.pixels.shape == (3, 3, 8, 9) and batch.images.pixels.dtype == torch.uint8
    assert batch.targets.shape == (3,) and batch.targets.dtype == torch.int64
