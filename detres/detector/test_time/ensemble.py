"""Ensembles (ResNet paper, appendix B): the union of the networks' proposals, every region judged by all of them.

Shapes: N images, R regions per image, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from detres.detector.test_time.scoring import Scorer
from detres.structures import Proposals


def union_of_proposals(parts: Sequence[Proposals]) -> tuple[Tensor, Tensor]:
    """Boxes (N, R, 4) of several networks' proposals together, and which are valid (N, R).

    A box that a network before proposed exactly alike is not valid: two copies of a network are one network.
    """
    boxes, valid = torch.cat([part.boxes_xyxy for part in parts], 1), torch.cat([part.valid for part in parts], 1)
    start = 0
    for part in parts[:-1]:
        end = start + part.boxes_xyxy.shape[1]
        known = boxes[:, start:end].masked_fill(~valid[:, start:end, None], torch.nan)  # equal to nothing
        valid[:, end:] &= ~(boxes[:, end:, None] == known[:, None]).all(-1).any(-1)
        start = end
    return boxes, valid


class Averaged:
    """Several networks' scorers as one: each region's scores and boxes are the means of theirs.

    columns: for each scorer, where it has each of the K classes; None: all in the same order.
    """

    def __init__(self, scorers: Sequence[Scorer], columns: Sequence[Sequence[int]] | None = None) -> None:
        self._scorers, self._columns = scorers, columns

    def score(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """As Scorer.score."""
        if len(self._scorers) == 1 and self._columns is None:
            return self._scorers[0].score(boxes)
        parts = [self._score(number, boxes) for number in range(len(self._scorers))]
        most = max(new.shape[2] for _, new in parts)  # one box for all classes averages with one for each
        wide = [new.expand(-1, -1, most, -1) for _, new in parts]
        return torch.stack([scores for scores, _ in parts]).mean(0), torch.stack(wide).mean(0)

    def _score(self, number: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
        scores, new = self._scorers[number].score(boxes)
        if self._columns is None:
            return scores, new
        order = torch.tensor(self._columns[number], device=boxes.device)
        return scores[:, :, order], new if new.shape[2] == 1 else new[:, :, order]
