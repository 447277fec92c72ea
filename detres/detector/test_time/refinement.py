"""Box refinement (ResNet paper, appendix B; Gidaris and Komodakis, 2015): regions are pooled again where they moved to.

Shapes: N images, R regions per image, K classes.
"""

import torch
from torch import Tensor

from detres.detector.test_time.scoring import Predictions, Scorer
from detres.structures.boxes import box_area, clip_boxes


def predict_with_refinement(scorer: Scorer, boxes: Tensor, valid: Tensor, sizes_hw: Tensor, rounds: int) -> Predictions:
    """What is found in regions (N, R, 4), and in the boxes that they were regressed to, `rounds` times: the union.

    As in the paper, R regions give R more: each moves to the box of its best class. With class-specific regression
    the other classes' boxes are left out of the pooling: they are near that box where their scores count, and would
    cost K times as much.
    """
    parts = []
    for turn in range(rounds + 1):
        scores, new = scorer.score(boxes)
        parts.append(Predictions(scores, new, valid & torch.isfinite(scores).all(-1) & torch.isfinite(new).all((2, 3))))
        if turn < rounds:
            boxes, valid = moved_regions(parts[-1], sizes_hw)
    return Predictions.join(parts)


def moved_regions(found: Predictions, sizes_hw: Tensor) -> tuple[Tensor, Tensor]:
    """The box of each region's best class (N, R, 4) in the image, zeros where there is none; and which are valid."""
    best = found.scores.argmax(-1) if found.boxes.shape[2] > 1 else torch.zeros_like(found.valid, dtype=torch.int64)
    boxes = found.boxes.gather(2, best[:, :, None, None].expand(-1, -1, 1, 4)).squeeze(2)
    boxes = clip_boxes(torch.where(found.valid[:, :, None], boxes, 0.0), sizes_hw)
    valid = found.valid & (box_area(boxes) > 0)
    return torch.where(valid[:, :, None], boxes, 0.0), valid
