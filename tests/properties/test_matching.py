"""Matching and sampling in training, box voting and fusion in testing, against loops."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detres.detector.target_assignment import assign, sample
from detres.detector.test_time.fusion import weighted_box_fusion
from detres.detector.voting import vote
from detres.structures import Detections, GroundTruth
from detres.structures.boxes import pairwise_iou
from tests.properties.strategies import box_lists, detections, few


@few
@given(box_lists(), st.lists(box_lists(max_size=4), min_size=1, max_size=3), st.booleans(), st.data())
def test_matching(boxes: Tensor, truth: list[Tensor], low_quality: bool, data: st.DataObject) -> None:
    ignore = [
        torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(t), max_size=len(t))), dtype=torch.bool)
        for t in truth
    ]
    targets = GroundTruth.from_lists(truth, [torch.zeros(len(t), dtype=torch.int64) for t in truth], ignore)
    found = assign(boxes, targets, 0.5, 0.3, low_quality)
    assert found.labels.shape == found.matches.shape == (len(truth), len(boxes))
    for image, (objects, crowd) in enumerate(zip(truth, ignore, strict=True)):
        iou = pairwise_iou(objects, boxes).numpy()
        for b in range(len(boxes)):
            expected = _label(iou[~crowd.numpy()], b, low_quality)
            if expected == 0 and crowd.any() and _share_in(boxes[b], objects[crowd]) > 0.5:
                expected = -1
            assert int(found.labels[image, b]) == expected
            real = np.flatnonzero(~crowd.numpy())
            if len(real) and iou[real, b].max() > 0:
                assert iou[int(found.matches[image, b]), b] == iou[real, b].max()


def _label(iou: np.ndarray, b: int, low_quality: bool) -> int:
    """1 positive, 0 negative, -1 neither, by the IoU (G, B) of all objects."""
    if not len(iou):
        return 0
    best = iou[:, b].max()
    is_best = low_quality and bool((iou[:, b] == iou.max(axis=1)).any())
    return 1 if best >= 0.5 or is_best else 0 if best < 0.3 else -1


def _share_in(box: Tensor, crowds: Tensor) -> float:
    x1, y1, x2, y2 = box.tolist()
    area = (x2 - x1) * (y2 - y1)
    shares = [0.0]
    for cx1, cy1, cx2, cy2 in crowds.tolist():
        inside = max(0.0, min(x2, cx2) - max(x1, cx1)) * max(0.0, min(y2, cy2) - max(y1, cy1))
        shares.append(inside / area if inside > 0 else 0.0)
    return max(shares)


@few
@given(
    st.lists(st.lists(st.sampled_from([-1, 0, 0, 1]), min_size=9, max_size=9), min_size=1, max_size=3),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.integers(0, 100),
)
def test_sampling(labels: list[list[int]], batch_size: int, fraction: float, seed: int) -> None:
    table = torch.tensor(labels)
    found = sample(table, torch.arange(len(labels)) + seed, batch_size, fraction)
    for image, row in enumerate(labels):
        chosen = found.index[image][found.valid[image]].tolist()
        num_positive = min(row.count(1), int(batch_size * fraction))
        assert len(set(chosen)) == len(chosen)
        assert [row[i] for i in chosen] == [1] * num_positive + [0] * min(row.count(0), batch_size - num_positive)
        alone = sample(table[image : image + 1], torch.tensor([image + seed]), batch_size, fraction)
        assert torch.equal(alone.index[0], found.index[image])


@few
@given(detections(min_length=1.0), detections(min_length=1.0), st.sampled_from([0.4, 0.6]))
def test_voting(found: tuple[Tensor, Tensor, Tensor], others: tuple[Tensor, Tensor, Tensor], threshold: float) -> None:
    boxes, _, labels = found
    candidates, scores, candidate_labels = others
    voted = vote(boxes, labels, candidates, scores, candidate_labels, threshold)
    iou = pairwise_iou(boxes, candidates)
    for d in range(len(boxes)):
        near = (iou[d] >= threshold) & (candidate_labels == labels[d]) & (scores > 0)
        expected = boxes[d].numpy()
        if near.any():
            expected = np.average(candidates[near].numpy(), axis=0, weights=scores[near].numpy())
        np.testing.assert_allclose(voted[d].numpy(), expected, atol=1e-3)


@few
@given(st.lists(detections(max_size=5, min_length=1.0), min_size=1, max_size=4))
def test_weighted_box_fusion(views: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    found = [Detections(*view) for view in views]
    boxes, scores, labels = weighted_box_fusion(found, iou_threshold=0.55)
    all_boxes, all_scores, all_labels = (torch.cat(parts) for parts in zip(*views, strict=True))
    assert bool((scores[:-1] >= scores[1:]).all()) and bool(
        (scores <= all_scores.amax() + 1e-6).all() if len(scores) else True
    )
    assert set(labels.tolist()) == set(all_labels[all_scores > 0].tolist()) and len(boxes) <= int(
        (all_scores > 0).sum()
    )
    for box, label in zip(boxes, labels, strict=True):  # a mean lies within what it is of
        mine = all_boxes[(all_labels == label) & (all_scores > 0)]
        assert bool((box >= mine.amin(dim=0) - 1e-3).all() and (box <= mine.amax(dim=0) + 1e-3).all())
    once = [Detections(all_boxes[:1], all_scores[:1], all_labels[:1])] * len(views)
    if len(all_boxes) and all_scores[0] > 0:  # what all views agree on stays what it is
        same, score, _ = weighted_box_fusion(once)
        torch.testing.assert_close(same, all_boxes[:1], atol=1e-3, rtol=0)
        torch.testing.assert_close(score, all_scores[:1])
