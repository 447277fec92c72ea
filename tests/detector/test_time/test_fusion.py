"""Weighted box fusion on its authors' example and against a loop; the other ways to merge views."""

import pytest
import torch

from detres.detector.test_time.fusion import Merging, weighted_box_fusion
from detres.structures import Detections

# The two models of the README of github.com/ZFTurbo/Weighted-Boxes-Fusion, with weights 2 and 1 and IoU 0.5.
FIRST = Detections(
    torch.tensor(
        [
            [0.00, 0.51, 0.81, 0.91],
            [0.10, 0.31, 0.71, 0.61],
            [0.01, 0.32, 0.83, 0.93],
            [0.02, 0.53, 0.11, 0.94],
            [0.03, 0.24, 0.12, 0.35],
        ]
    ),
    torch.tensor([0.9, 0.8, 0.2, 0.4, 0.7]),
    torch.tensor([0, 1, 0, 1, 1]),
)
SECOND = Detections(
    torch.tensor(
        [[0.04, 0.56, 0.84, 0.92], [0.12, 0.33, 0.72, 0.64], [0.38, 0.66, 0.79, 0.95], [0.08, 0.49, 0.21, 0.89]]
    ),
    torch.tensor([0.5, 0.8, 0.7, 0.3]),
    torch.tensor([1, 1, 1, 0]),
)
# What ensemble-boxes 1.0.9 returns for them: box, score, label.
PUBLISHED = [
    ([0.106667, 0.316667, 0.713333, 0.62], 0.8, 1),
    ([0.001818, 0.475455, 0.813636, 0.913636], 0.733333, 0),
    ([0.03, 0.24, 0.12, 0.35], 0.466667, 1),
    ([0.02, 0.53, 0.11, 0.94], 0.266667, 1),
    ([0.38, 0.66, 0.79, 0.95], 0.233333, 1),
    ([0.04, 0.56, 0.84, 0.92], 0.166667, 1),
    ([0.08, 0.49, 0.21, 0.89], 0.1, 0),
]


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def fusion_by_loop(found: list[Detections], threshold: float) -> list[tuple[float, int, list[float]]]:
    """Section 3 of the paper, step by step, with plain lists."""
    rows = [
        (score, label, box)
        for each in found
        for score, label, box in zip(each.scores.tolist(), each.labels.tolist(), each.boxes_xyxy.tolist(), strict=True)
    ]
    clusters: list[list[tuple[float, int, list[float]]]] = []
    means: list[tuple[float, int, list[float]]] = []
    for row in sorted(rows, key=lambda row: -row[0]):
        fits = [(iou(mean[2], row[2]), i) for i, mean in enumerate(means) if mean[1] == row[1]]
        best, place = max(fits, default=(0.0, -1))
        if best > threshold:
            clusters[place].append(row)
        else:
            place = len(clusters)
            clusters.append([row])
            means.append(row)
        total = sum(score for score, _, _ in clusters[place])
        box = [sum(score * b[k] for score, _, b in clusters[place]) / total for k in range(4)]
        means[place] = (total / len(clusters[place]), row[1], box)
    count = len(found)
    scaled = [
        (score * min(count, len(cluster)) / count, label, box)
        for (score, label, box), cluster in zip(means, clusters, strict=True)
    ]
    return sorted(scaled, key=lambda row: -row[0])


def some(count: int) -> Detections:
    corners = torch.rand(count, 2) * 20
    boxes = torch.cat([corners, corners + 20 + torch.rand(count, 2) * 20], dim=1)
    return Detections(boxes, torch.rand(count), torch.randint(0, 2, (count,)), image_size_hw=(60, 60))


@pytest.mark.parametrize("method", ["nms", "soft_nms", "wbf"])
def test_no_detections(method: str) -> None:
    merging = Merging(method, 0.5, 0.05, 100)
    assert len(merging([Detections.empty(), Detections.empty()])) == 0
    one = merging([Detections.empty(), SECOND])
    assert len(one) == 4 and one.labels.dtype == torch.int64


def test_the_published_example() -> None:
    boxes, scores, labels = weighted_box_fusion([FIRST, SECOND], iou_threshold=0.5, weights=[2, 1])
    torch.testing.assert_close(boxes, torch.tensor([row[0] for row in PUBLISHED]), rtol=0, atol=2e-6)
    torch.testing.assert_close(scores, torch.tensor([row[1] for row in PUBLISHED]), rtol=0, atol=2e-6)
    assert labels.tolist() == [row[2] for row in PUBLISHED]


def test_fusion_is_the_papers_loop() -> None:
    found = [some(40), some(30), some(0), some(25)]
    boxes, scores, labels = weighted_box_fusion(found, iou_threshold=0.55)
    expected = fusion_by_loop(found, 0.55)
    assert 4 < len(expected) < 60, "or else the test tells nothing"
    torch.testing.assert_close(scores, torch.tensor([row[0] for row in expected]))
    torch.testing.assert_close(boxes, torch.tensor([row[2] for row in expected]))
    assert labels.tolist() == [row[1] for row in expected]


def test_scores_of_zero_move_nothing() -> None:
    found = Detections(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3]]), torch.tensor([0.5, 0.0]), torch.tensor([0, 0]))
    boxes, scores, _ = weighted_box_fusion([found])
    assert boxes.tolist() == [[0, 0, 4, 4]] and scores.tolist() == [0.5]


def test_nms_and_soft_nms_of_two_views() -> None:
    one = Detections(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0.9]), torch.tensor([3]), image_size_hw=(20, 20))
    other = Detections(
        torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 8], [0, 0, 10, 2]]),
        torch.tensor([0.8, 0.7, 0.2]),
        torch.tensor([3, 4, 3]),
    )
    hard = Merging("nms", 0.5, 0.05, 100)([one, other])
    torch.testing.assert_close(hard.scores, torch.tensor([0.9, 0.7, 0.2]))
    assert hard.labels.tolist() == [3, 4, 3] and hard.image_size_hw == (20, 20)
    soft = Merging("soft_nms", 0.5, 0.05, 100)([one, other])
    torch.testing.assert_close(soft.scores, torch.tensor([0.9, 0.7, 0.2, 0.8 * (1 - 0.8)]))
    assert len(Merging("nms", 0.5, 0.05, 2)([one, other])) == 2


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="got 1, expected one for each of the 2"):
        weighted_box_fusion([FIRST, SECOND], weights=[1.0])
