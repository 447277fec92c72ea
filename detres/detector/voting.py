"""Box voting (Gidaris and Komodakis, 2015, section 5).

Shapes: D detections, C candidates.
"""

import torch
from torch import Tensor

from detres.structures.boxes import pairwise_iou


def vote(
    boxes: Tensor, labels: Tensor, candidates: Tensor, scores: Tensor, candidate_labels: Tensor, iou_threshold: float
) -> Tensor:
    """New places (D, 4) of detections: the mean of all candidates of their class near them, weighted by score.

    boxes (D, 4), labels (D,); candidates (C, 4), scores (C,), candidate_labels (C,) as they were before NMS. Near is
    an IoU of at least `iou_threshold`. A detection that no candidate with a score above 0 is near stays where it is.
    """
    near = (pairwise_iou(boxes, candidates) >= iou_threshold) & (labels[:, None] == candidate_labels)
    weights = near * scores[None].to(boxes.dtype)
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weights @ candidates / total.clamp(min=1e-12), boxes)
