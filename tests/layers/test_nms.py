"""Hard and soft NMS against hand-made cases and a plain loop."""

import math

import pytest
import torch
from torch import Tensor

import detres.layers.nms
from detres.layers.nms import _nms_by_offsets, batched_nms, soft_nms, survivors
from detres.structures.boxes import pairwise_iou


def random_boxes(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 20], dim=1)
    return boxes, torch.rand(count, generator=generator), torch.randint(0, 4, (count,), generator=generator)


def plain_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        same = [j for j in kept if groups[j] == groups[i]]
        if all(pairwise_iou(boxes[i : i + 1], boxes[j : j + 1]).item() <= threshold for j in same):
            kept.append(i)
    return kept


def test_nothing() -> None:
    none = torch.zeros(0)
    groups = torch.zeros(0, dtype=torch.int64)
    assert batched_nms(torch.zeros(0, 4), none, groups, 0.5).tolist() == []
    index, scores = soft_nms(torch.zeros(0, 4), none, groups, method="soft_linear")
    assert index.tolist() == [] and scores.tolist() == []


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_equals_a_plain_loop(threshold: float) -> None:
    boxes, scores, groups = random_boxes(120)
    assert batched_nms(boxes, scores, groups, threshold).tolist() == plain_nms(boxes, scores, groups, threshold)


def test_the_gpu_formulation_keeps_the_same() -> None:
    boxes, scores, groups = random_boxes(200, seed=1)
    assert sorted(_nms_by_offsets(boxes, scores, groups, 0.5).tolist()) == sorted(
        batched_nms(boxes, scores, groups, 0.5).tolist()
    )


def test_groups_far_apart_do_not_lose_precision() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.1], [5e4, 5e4, 5e4 + 10, 5e4 + 10]])
    groups = torch.tensor([90, 90, 91])
    assert batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), groups, 0.5).tolist() == [0, 2]


def test_soft_nms_by_hand() -> None:
    # Three boxes in a row; IoU of neighbours is 1/3, of the outer two 0. A fourth box belongs to another class.
    boxes = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [10.0, 0.0, 20.0, 10.0], [0.0, 0.0, 10.0, 10.0]]
    )
    scores, groups = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 0, 1])
    index, decayed = soft_nms(boxes, scores, groups, method="soft_linear", iou_threshold=0.3)
    # 0 settles; 1 decays to 0.8 * 2/3 = 0.5333; 2 (0.7) settles next and decays 1 to 0.3556; 3 is untouched.
    assert index.tolist() == [0, 2, 3, 1]
    torch.testing.assert_close(decayed, torch.tensor([0.9, 0.7, 0.6, 0.8 * (2 / 3) ** 2]))
    index, decayed = soft_nms(boxes, scores, groups, method="soft_gaussian", sigma=0.5)
    factor = math.exp(-((1 / 3) ** 2) / 0.5)
    assert index.tolist() == [0, 2, 3, 1]
    torch.testing.assert_close(decayed, torch.tensor([0.9, 0.7, 0.6, 0.8 * factor**2]))


def test_soft_nms_drops_what_decays_below_the_minimum() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    index, _ = soft_nms(boxes, torch.tensor([0.9, 0.4]), torch.zeros(2, dtype=torch.int64), method="soft_linear",
                        min_score=0.05)  # fmt: skip
    assert index.tolist() == [0]  # 0.4 * (1 - 0.9) = 0.04


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="soft_linear"):
        soft_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), method="hard")


@pytest.mark.parametrize("at_once", [1, 120, 1000])
def test_survivors_of_a_batch_are_those_of_each_image(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and groups never meet; what is not usable goes and suppresses nothing, even where it is not finite."""
    monkeypatch.setattr(detres.layers.nms, "_MOST_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(3, 60, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(3, 60, 2, generator=generator) * 30], dim=2)
    scores, groups = torch.rand(3, 60, generator=generator), torch.randint(0, 3, (3, 60), generator=generator)
    usable = torch.rand(3, 60, generator=generator) > 0.2
    boxes[~usable & (groups == 0)] = float("nan")
    kept = survivors(boxes, scores, groups, usable, 0.5)
    for i in range(3):
        here = usable[i].nonzero().squeeze(1)
        expected = here[batched_nms(boxes[i, here], scores[i, here], groups[i, here], 0.5)]
        assert set(kept[i].nonzero().squeeze(1).tolist()) == set(expected.tolist())
    none = torch.zeros(2, 0)
    assert survivors(torch.zeros(2, 0, 4), none, none.long(), none.bool(), 0.5).shape == (2, 0)
