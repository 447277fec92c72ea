"""Matching with crowds, in chunks and without objects; sampling."""

import pytest
import torch
from torch import Tensor

from detres.detector import target_assignment
from detres.detector.target_assignment import assign, sample
from detres.structures import GroundTruth
from detres.structures.random import derive_seed


def truth(*boxes: list[float], ignore: list[bool] | None = None) -> GroundTruth:
    tensor = torch.tensor(boxes).reshape(-1, 4)
    flags = None if ignore is None else [torch.tensor(ignore)]
    return GroundTruth.from_lists([tensor], [torch.zeros(len(tensor), dtype=torch.int64)], flags)


def random_boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * 200
    return torch.cat([corner, corner + 4 + torch.rand(count, 2) * 60], dim=1)


def test_without_objects_all_are_negative() -> None:
    assignment = assign(random_boxes(5), truth(), 0.7, 0.3, low_quality=True)
    assert assignment.labels.tolist() == [[0] * 5] and assignment.matches.tolist() == [[0] * 5]


def test_an_image_without_objects_beside_one_with() -> None:
    boxes = [torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 10.0, 10.0]])]
    labels = [torch.zeros(len(b), dtype=torch.int64) for b in boxes]
    anchors = torch.tensor([[0.0, 0.0, 10.0, 9.0], [50.0, 50.0, 60.0, 60.0]])
    assignment = assign(anchors, GroundTruth.from_lists(boxes, labels), 0.7, 0.3, low_quality=True)
    assert assignment.labels.tolist() == [[0, 0], [1, 0]]


def test_boxes_in_a_crowd_are_neither_positive_nor_negative() -> None:
    targets = truth([0.0, 0.0, 100.0, 100.0], [200.0, 0.0, 220.0, 20.0], ignore=[True, False])
    boxes = torch.tensor(
        [
            [10.0, 10.0, 30.0, 30.0],  # inside the crowd
            [0.0, 0.0, 100.0, 100.0],  # the crowd itself: no positive either
            [90.0, 0.0, 105.0, 10.0],  # two thirds inside
            [95.0, 0.0, 115.0, 10.0],  # a quarter inside: background
            [200.0, 0.0, 220.0, 20.0],  # an object
            [150.0, 150.0, 160.0, 160.0],  # background
        ]
    )
    for low_quality in (False, True):
        assignment = assign(boxes, targets, 0.5, 0.5, low_quality)
        assert assignment.labels.tolist() == [[-1, -1, -1, 0, 1, 0]]


def test_only_a_crowd() -> None:
    assignment = assign(torch.tensor([[0.0, 0.0, 9.0, 9.0], [50.0, 50.0, 60.0, 60.0]]),
                        truth([0.0, 0.0, 10.0, 10.0], ignore=[True]), 0.7, 0.3, low_quality=True)  # fmt: skip
    assert assignment.labels.tolist() == [[-1, 0]]


@pytest.mark.parametrize("low_quality", [False, True])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, low_quality: bool) -> None:
    boxes = random_boxes(500)
    targets = truth(*random_boxes(40).tolist(), ignore=[i % 7 == 0 for i in range(40)])
    whole = assign(boxes, targets, 0.6, 0.4, low_quality)
    monkeypatch.setattr(target_assignment, "MAX_IOU_ELEMENTS", 40 * 13)
    chunked = assign(boxes, targets, 0.6, 0.4, low_quality)
    assert torch.equal(whole.labels, chunked.labels) and torch.equal(whole.matches, chunked.matches)
    assert {-1, 0, 1} <= set(whole.labels.unique().tolist())


def test_thousands_of_objects_need_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []
    real = target_assignment.pairwise_iou
    monkeypatch.setattr(
        target_assignment, "pairwise_iou", lambda a, b: largest.append(len(a[0]) * b.shape[1]) or real(a, b)
    )
    monkeypatch.setattr(target_assignment, "MAX_IOU_ELEMENTS", 1 << 20)
    objects = random_boxes(5000)
    assignment = assign(torch.cat([objects, random_boxes(1000)]), truth(*objects.tolist()), 0.7, 0.3, True)
    assert max(largest) <= 1 << 20
    assert (assignment.labels[0, :5000] == 1).all()


def test_sampling_counts() -> None:
    labels = torch.tensor([[1] * 10 + [0] * 50 + [-1] * 40, [0] * 3 + [-1] * 97])
    chosen = sample(labels, torch.tensor([1, 2]), batch_size=16, positive_fraction=0.25)
    assert chosen.valid.sum(1).tolist() == [16, 3]
    assert chosen.positive.sum(1).tolist() == [4, 0]
    picked = labels.gather(1, chosen.index)
    assert (picked[chosen.positive] == 1).all() and (picked[chosen.valid & ~chosen.positive] == 0).all()
    rows = chosen.index[0][chosen.valid[0]]
    assert len(rows.unique()) == 16  # nothing twice


def test_fewer_positives_leave_room_for_negatives() -> None:
    labels = torch.tensor([[1] * 2 + [0] * 50])
    chosen = sample(labels, torch.tensor([1]), batch_size=16, positive_fraction=0.5)
    assert (int(chosen.positive.sum()), int(chosen.valid.sum())) == (2, 16)


def test_sampling_is_uniform_and_keyed() -> None:
    labels = torch.zeros(2000, 20, dtype=torch.int64)
    seeds = torch.tensor([derive_seed(0, i) for i in range(2000)])
    counts = torch.bincount(sample(labels, seeds, 5, 0.5).index.flatten(), minlength=20)
    assert (counts.float() / 2000 - 0.25).abs().max() < 0.04  # 4 standard deviations
    alone = sample(labels[:1], seeds[7:8], 5, 0.5)
    assert torch.equal(alone.index[0], sample(labels, seeds, 5, 0.5).index[7])
