"""Box refinement and the union of proposals, with networks whose answers are known."""

import torch
from torch import Tensor

from detres.detector.test_time.ensemble import Averaged, union_of_proposals
from detres.detector.test_time.refinement import predict_with_refinement
from detres.structures import Proposals

SIZES = torch.tensor([[40, 50]])


class Mover:
    """Class k moves a box by (k + 1) * step to the right; the scores are those given."""

    def __init__(self, scores: list[float], step: float = 10.0, agnostic: bool = False) -> None:
        self.scores, self.step, self.agnostic, self.asked = torch.tensor(scores), step, agnostic, []

    def score(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(boxes)
        shift = self.step * torch.arange(1, len(self.scores) + 1)[:, None] * torch.tensor([1.0, 0, 1, 0])
        shift = shift[:1] if self.agnostic else shift
        return self.scores.expand(*boxes.shape[:2], -1), boxes[:, :, None] + shift


def test_no_regions() -> None:
    found = predict_with_refinement(Mover([0.5]), torch.zeros(1, 0, 4), torch.zeros(1, 0) > 0, SIZES, 2)
    assert found.scores.shape == (1, 0, 1) and found.boxes.shape == (1, 0, 1, 4)


def test_regions_move_to_the_box_of_their_best_class() -> None:
    boxes, valid = (
        torch.tensor([[[0.0, 0, 20, 20], [30, 0, 40, 10], [0, 0, 0, 0]]]),
        torch.tensor([[True, True, False]]),
    )
    for agnostic, step in ((False, 20.0), (True, 10.0)):
        mover = Mover([0.2, 0.5, 0.1], agnostic=agnostic)
        found = predict_with_refinement(mover, boxes, valid, SIZES, 1)
        assert found.scores.shape == (1, 6, 3) and found.boxes.shape == (1, 6, 1 if agnostic else 3, 4)
        once = torch.tensor([[[step, 0, 20 + step, 20], [30 + step, 0, min(40 + step, 50), 10], [0, 0, 0, 0]]])
        has_area = 30 + step < 50
        once[0, 1] *= has_area  # the second one leaves the image when it moves by 20: no region is left
        torch.testing.assert_close(mover.asked[1], once)
        assert found.valid.tolist() == [[True, True, False, True, has_area, False]]


def test_what_is_not_finite_is_no_region() -> None:
    boxes = torch.tensor([[[0.0, 0, 20, 20], [0, 0, torch.inf, 9]]])
    mover = Mover([0.5])
    found = predict_with_refinement(mover, boxes, torch.ones(1, 2) > 0, SIZES, 1)
    assert found.valid.tolist() == [[True, False, True, False]]
    assert mover.asked[1][0, 1].tolist() == [0, 0, 0, 0]


def test_the_union_of_proposals_holds_each_box_once() -> None:
    a = torch.tensor([[[0.0, 0, 9, 9], [1, 1, 5, 5], [0, 0, 0, 0]]])
    b = torch.tensor([[[1.0, 1, 5, 5], [0, 0, 0, 0], [2, 2, 8, 8]]])
    one = Proposals(a, torch.zeros(1, 3), torch.tensor([[True, True, False]]))
    other = Proposals(b, torch.zeros(1, 3), torch.tensor([[True, False, True]]))
    boxes, valid = union_of_proposals([one, other, other])
    assert torch.equal(boxes, torch.cat([a, b, b], 1))
    assert valid.tolist() == [[True, True, False, False, False, True, False, False, False]]
    assert one.valid.tolist() == [[True, True, False]], "what was given stays as it was"


def test_scores_and_boxes_are_averaged_in_one_order_of_the_classes() -> None:
    boxes = torch.tensor([[[0.0, 0, 20, 20]]])
    scores, new = Averaged([Mover([0.2, 0.6]), Mover([0.1, 0.4], step=2.0)], [[0, 1], [1, 0]]).score(boxes)
    torch.testing.assert_close(scores, torch.tensor([[[0.3, 0.35]]]))  # (0.2 + 0.4) / 2, (0.6 + 0.1) / 2
    assert new[0, 0, :, 0].tolist() == [(10 + 4) / 2, (20 + 2) / 2]
    _, new = Averaged([Mover([0.2, 0.6]), Mover([0.1, 0.4], step=2.0, agnostic=True)], [[0, 1], [1, 0]]).score(boxes)
    assert new[0, 0, :, 0].tolist() == [(10 + 2) / 2, (20 + 2) / 2]
