"""Boxes, NMS in its variants, and the box coder, against loops in double precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detres.detector.anchors import AnchorGenerator
from detres.detector.box_coder import BoxCoder
from detres.layers.nms import _nms_by_offsets, batched_nms, soft_nms
from detres.structures.boxes import (
    box_area,
    clip_boxes,
    pairwise_ioa,
    pairwise_iou,
    scale_boxes,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from tests.properties.strategies import box_lists, detections, few, plain_iou, plain_ious

THRESHOLDS = st.sampled_from([0.3, 0.5, 0.7])


@few
@given(box_lists(), box_lists())
def test_iou(a: Tensor, b: Tensor) -> None:
    found = pairwise_iou(a, b)
    np.testing.assert_allclose(found.numpy(), plain_ious(a, b), atol=1e-6)
    assert torch.equal(found, pairwise_iou(b, a).T) and bool(((found >= 0) & (found <= 1)).all())
    assert bool((pairwise_ioa(a, b) >= found - 1e-6).all())


@few
@given(box_lists(), st.integers(0, 120), st.integers(0, 120))
def test_area_and_clipping(boxes: Tensor, height: int, width: int) -> None:
    size_hw = torch.tensor([height, width])
    clipped = clip_boxes(boxes, size_hw)
    np.testing.assert_array_equal(clipped.numpy(), np.clip(boxes.numpy(), 0, [width, height, width, height]))
    assert torch.equal(clip_boxes(clipped, size_hw), clipped)
    whole = torch.tensor([[0.0, 0.0, width, height]])
    inside = [plain_iou(box, whole[0].numpy()) > 0 for box in boxes.numpy()]
    assert (box_area(clipped) > 0).tolist() == inside


@few
@given(box_lists(), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_ways_to_write_boxes(boxes: Tensor, factor: float) -> None:
    assert torch.equal(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)
    there = scale_boxes(boxes, (10.0, 20.0), (10.0 * factor, 20.0 * factor))
    assert torch.equal(scale_boxes(there, (10.0 * factor, 20.0 * factor), (10.0, 20.0)), boxes)


@few
@given(detections(), THRESHOLDS)
def test_hard_nms(found: tuple[Tensor, Tensor, Tensor], threshold: float) -> None:
    boxes, scores, groups = found
    iou, kept = pairwise_iou(boxes, boxes), []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not any(groups[i] == groups[j] and iou[i, j] > threshold for j in kept):
            kept.append(i)
    assert batched_nms(boxes, scores, groups, threshold).tolist() == kept
    assert sorted(_nms_by_offsets(boxes, scores, groups, threshold).tolist()) == sorted(kept)


@few
@given(detections(), THRESHOLDS, st.sampled_from(["soft_linear", "soft_gaussian"]))
def test_soft_nms(found: tuple[Tensor, Tensor, Tensor], threshold: float, method: str) -> None:
    boxes, scores, groups = found
    current, expected = scores.double().tolist(), {}
    waiting = set(range(len(boxes)))
    while waiting:
        best = max(waiting, key=lambda i: (current[i], -i))
        waiting.remove(best)
        expected[best] = current[best]
        for i in (i for i in waiting if groups[i] == groups[best]):
            iou = plain_iou(boxes[best].double().numpy(), boxes[i].double().numpy())
            linear = 1 - iou if iou > threshold else 1.0
            current[i] *= math.exp(-(iou**2) / 0.5) if method == "soft_gaussian" else linear
    order, decayed = soft_nms(boxes, scores, groups, method=method, iou_threshold=threshold, min_score=0.001)
    assert bool((decayed[:-1] >= decayed[1:]).all()) and len(set(order.tolist())) == len(order)
    final = {i: score for i, score in zip(order.tolist(), decayed.tolist(), strict=True)}
    for i, score in expected.items():
        assert final.get(i, 0.0) == pytest.approx(score, abs=2e-3 if score < 2e-3 else 1e-5)


@few
@given(
    box_lists(min_length=1.0), box_lists(max_size=1, min_length=1.0), st.sampled_from([(1, 1, 1, 1), (10, 10, 5, 5)])
)
def test_the_coder_goes_there_and_back(boxes: Tensor, reference: Tensor, weights: tuple[float, ...]) -> None:
    references = reference.expand(len(boxes), 4) if len(reference) else boxes
    coder = BoxCoder(weights)
    np.testing.assert_allclose(coder.decode(coder.encode(boxes, references), references), boxes, atol=2e-3)
    assert torch.equal(coder.decode(torch.zeros(len(boxes), 4), references), references)


@few
@given(
    st.lists(st.sampled_from([8.0, 16.0, 33.0]), min_size=1, max_size=3),
    st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=1, max_size=3),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.sampled_from([4, 16]),
)
def test_anchors(sizes: list[float], ratios: list[float], feature_hw: tuple[int, int], stride: int) -> None:
    padded_hw = (feature_hw[0] * stride, feature_hw[1] * stride)
    (anchors,) = AnchorGenerator([sizes], ratios)([feature_hw], [stride], padded_hw)
    expected = []
    for y, x in np.ndindex(*feature_hw):
        for size in sizes:
            for ratio in ratios:
                width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
                left, top = x * stride - width / 2, y * stride - height / 2
                expected.append([left, top, left + width, top + height])
    np.testing.assert_allclose(anchors.numpy(), np.array(expected).reshape(-1, 4), atol=1e-4)
