"""Non-maximum suppression within groups (classes, or feature levels): hard and soft.

Shapes: M boxes; N images of M boxes each.
"""

import torch
import torchvision
from torch import Tensor

from detres.structures.boxes import pairwise_iou

_MOST_AT_ONCE = 30_000  # boxes: three images with 2,000 on each of five levels


def suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    method: str = "hard",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    min_score: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """The indices that survive NMS within the groups and their scores, by decreasing score.

    method: "hard" (batched_nms), or one of soft_nms, which lowers scores and needs `sigma` and `min_score`.
    """
    if method == "hard":
        keep = batched_nms(boxes, scores, groups, iou_threshold)
        return keep, scores[keep]
    return soft_nms(boxes, scores, groups, method=method, iou_threshold=iou_threshold, sigma=sigma, min_score=min_score)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive, by decreasing score; boxes of different groups never suppress each other.

    boxes (M, 4), scores (M,), groups (M,) int64. A box goes when its IoU with a kept better box of its group is above
    `iou_threshold`; equal scores rank by index.
    """
    kept = _survivors(boxes.float(), scores.float(), groups, iou_threshold).nonzero().squeeze(1)
    return kept[torch.argsort(scores[kept].float(), descending=True, stable=True)]


def survivors(boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes (N, M, 4) of a batch survive: (N, M) bool. As batched_nms; images never meet.

    scores, groups and usable (bool) are (N, M). What is not usable goes, and suppresses nothing. Several images in a
    call, because each has a GPU waited for (torchvision's kernel gives as many indices as survive); not all of a large
    batch, because its cost on a GPU grows with the square of the boxes.
    """
    step = max(1, _MOST_AT_ONCE // max(1, boxes.shape[1]))
    parts = zip(boxes.split(step), scores.split(step), groups.split(step), usable.split(step), strict=True)
    return torch.cat([_survivors_of_images(*part, iou_threshold=iou_threshold) for part in parts])


def _survivors_of_images(boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float) -> Tensor:
    images = torch.arange(len(boxes), device=boxes.device)[:, None]
    # an empty box overlaps nothing
    boxes = boxes.float().masked_fill(~usable[:, :, None], 0.0).flatten(0, 1)
    apart = (groups * len(images) + images).flatten()
    kept = _survivors(boxes, scores.float().masked_fill(~usable, -torch.inf).flatten(), apart, iou_threshold)
    return kept.view_as(usable) & usable


def _survivors(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes (M, 4) survive: (M,) bool."""
    if boxes.is_cuda:
        keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        return keep.index_fill_(0, _nms_by_offsets(boxes, scores, groups, iou_threshold), True)
    # Group by group: exact in float32, and the cost grows with the squares of the groups, not of their sum.
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    by_group = torch.argsort(groups, stable=True)
    for members in by_group.split(torch.bincount(groups[by_group]).tolist() if len(groups) else []):
        keep[members[torchvision.ops.nms(boxes[members], scores[members], iou_threshold)]] = True
    return keep


def _nms_by_offsets(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """One call for all groups: every group is moved to a place of its own (float64 keeps the boxes exact there)."""
    far = boxes.detach().abs().amax() * 2 + 1 if len(boxes) else boxes.new_zeros(())
    moved = boxes.double() + (groups * far.double())[:, None]
    return torchvision.ops.nms(moved, scores.double(), iou_threshold)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    method: str,
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    min_score: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al., 2017): overlapping boxes lose score instead of going.

    method "soft_linear": a score is multiplied by 1 - IoU where IoU > `iou_threshold`; "soft_gaussian": by
    exp(-IoU^2 / sigma). Returns (indices, new scores) of those above `min_score`, by decreasing new score.
    """
    if method not in ("soft_linear", "soft_gaussian"):
        raise ValueError(f"method must be 'soft_linear' or 'soft_gaussian', got {method!r}")
    decayed = scores.float().clone()
    for group in groups.unique().tolist():
        members = (groups == group).nonzero().squeeze(1)
        decayed[members] = _decay(boxes[members].float(), decayed[members], method, iou_threshold, sigma, min_score)
    order = torch.argsort(decayed, descending=True, stable=True)
    order = order[decayed[order] > min_score]
    return order, decayed[order]


def _decay(boxes: Tensor, scores: Tensor, method: str, iou_threshold: float, sigma: float, min_score: float) -> Tensor:
    """The final scores of one group: the best of the rest is settled, then all others decay by their IoU with it."""
    scores, waiting = scores.clone(), torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    for _ in range(len(scores)):
        best = int(torch.where(waiting, scores, -1.0).argmax())
        if scores[best] <= min_score:
            break
        waiting[best] = False
        iou = pairwise_iou(boxes[best : best + 1], boxes)[0]
        if method == "soft_gaussian":
            factor = torch.exp(-(iou**2) / sigma)
        else:
            factor = torch.where(iou > iou_threshold, 1 - iou, 1.0)
        scores = torch.where(waiting, scores * factor, scores)
    return scores
