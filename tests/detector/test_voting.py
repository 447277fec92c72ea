"""Box voting on numbers that were worked out by hand."""

import torch

from detres.detector.voting import vote


def test_nothing_to_vote_on() -> None:
    none, empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert vote(none, empty, none, torch.zeros(0), empty, 0.5).shape == (0, 4)
    one = torch.tensor([[0.0, 0, 4, 4]])
    assert torch.equal(vote(one, torch.tensor([0]), none, torch.zeros(0), empty, 0.5), one)


def test_the_mean_of_the_near_boxes_of_the_class_weighted_by_score() -> None:
    kept = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    candidates = torch.tensor(
        [
            [0.0, 0, 10, 10],  # itself: IoU 1
            [0, 0, 10, 8],  # IoU 0.8
            [0, 0, 10, 5],  # IoU 0.5, which is enough
            [0, 0, 10, 4],  # IoU 0.4
            [0, 0, 10, 9],  # of another class
            [50, 50, 60, 60],
            [52, 50, 62, 60],  # IoU 80 / 120
        ]
    )
    scores = torch.tensor([0.8, 0.4, 0.4, 0.9, 0.9, 0.6, 0.3])
    labels = torch.tensor([1, 1, 1, 1, 0, 1, 1])
    found = vote(kept, torch.tensor([1, 1]), candidates, scores, labels, 0.5)
    bottom = (0.8 * 10 + 0.4 * 8 + 0.4 * 5) / 1.6  # 8.25
    right = 50 + (0.6 * 0 + 0.3 * 2) / 0.9
    expected = torch.tensor([[0.0, 0, 10, bottom], [right, 50, right + 10, 60]])
    torch.testing.assert_close(found, expected)
