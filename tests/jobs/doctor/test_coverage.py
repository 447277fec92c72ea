"""Anchor coverage against the IoU of every anchor with every box."""

import numpy as np
import pytest
import torch

from detres.config import load_config
from detres.data.transforms import DetectionTransforms
from detres.jobs.doctor.coverage import best_ious, coverage_rows, grid_of, measure, training_sizes
from detres.structures.boxes import pairwise_iou
from detres.wiring import build_model


def _boxes(count: int, height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 1, (count, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    boxes[:, 2:] += 1
    return boxes


def test_no_boxes() -> None:
    grid = grid_of(load_config("voc07_small.yaml").config, 3)
    nothing = measure(np.zeros((0, 4)), np.zeros((0, 2)), np.zeros((0, 2, 2), dtype=np.int64), grid)
    assert [row["IoU >= 0.5"] for row in coverage_rows(nothing, np.zeros(0))] == ["n/a"] * 4


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("voc07_small.yaml", []),
        ("voc07_small.yaml", ["model.anchors.rounded=true", "model.anchors.stride=from_shape"]),
        ("voc07_small.yaml", ["model.rpn.straddle_threshold=0", "model.pixels.size_divisibility=0"]),
        ("coco_r50_c4.yaml", []),
    ],
)
def test_against_every_anchor(name: str, overrides: list[str]) -> None:
    config = load_config(name, overrides).config
    height, width = 150, 197
    boxes = _boxes(80, height, width)
    found = best_ious(boxes, np.tile([[height, width]], (len(boxes), 1)), grid_of(config, 3))
    step = max(1, config.model.pixels.size_divisibility)
    padded = (-(-height // step) * step, -(-width // step) * step)
    with torch.device("meta"):  # the feature maps of the real network
        model = build_model(config, 3)
        maps = model.get_submodule("backbone")(torch.zeros(1, 3, *padded))
    sizes = [tuple(maps[level].shape[-2:]) for level in model.rpn.names]
    anchors = torch.cat(model.rpn.anchors(sizes, model.rpn.strides, padded))
    if (limit := model.rpn.straddle_threshold) >= 0:
        inside = (anchors[:, :2] >= -limit).all(1) & (anchors[:, 2:] <= torch.tensor([width, height]) + limit).all(1)
        anchors = anchors[inside]
    expected = pairwise_iou(torch.from_numpy(boxes), anchors.double()).amax(dim=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_sizes_are_those_of_the_transforms() -> None:
    steps = [{"type": "resize_shortest", "short": [40, 60], "max": 90}, {"type": "horizontal_flip", "p": 0.5}]
    sizes = training_sizes((50, 120), steps)
    made = DetectionTransforms(steps)
    seen = {
        made(np.zeros((50, 120, 3), np.uint8), np.zeros((0, 4)), [], [], seed).image.shape[:2] for seed in range(20)
    }
    assert set(sizes) == seen and len(sizes) == 2
    assert training_sizes((50, 120), [{"type": "resize", "height": 7, "width": 9}]) == [(7, 9)]
    jitter = [{"type": "large_scale_jitter", "size": 100, "min_scale": 0.5, "max_scale": 1.5}]
    assert training_sizes((50, 100), jitter)[0] == (25, 50) and training_sizes((50, 100), jitter)[-1] == (75, 150)


def test_shares_are_means_over_the_scales() -> None:
    grid = grid_of(load_config("voc07_small.yaml", ["model.anchors.aspect_ratios=[1.0]"]).config, 3)
    sizes, variants = np.array([[100, 100]]), np.array([[[100, 100], [4000, 4000]]])
    coverage = measure(np.array([[24.0, 24, 40, 40]]), sizes, variants, grid)  # an anchor of 16 at (32, 32); 640: none
    assert coverage.reached.tolist() == [[0.5], [0.5]]
    rows = coverage_rows(coverage, np.array([256.0]))
    assert [row["IoU >= 0.5"] for row in rows] == ["50.0%", "50.0%", "n/a", "n/a"]
