"""Merging what was found in several views of one image, or by several detectors: NMS, soft-NMS, weighted box fusion.

Shapes: D detections of all views, C clusters of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detres.layers.nms import suppress
from detres.structures import Detections
from detres.structures.boxes import pairwise_iou


@dataclass(frozen=True)
class Merging:
    """How detections of several views become one list.

    method                "nms", "soft_nms" (linear) or "wbf"
    iou                   above which two boxes are of one object
    score_threshold       of soft-NMS: what scores less after it goes
    detections_per_image  how many are kept at most
    """

    method: str
    iou: float
    score_threshold: float
    detections_per_image: int

    def __call__(self, found: Sequence[Detections]) -> Detections:
        """One entry of `found` per view, all in pixels of one image; on the device of the first."""
        if self.method == "wbf":
            boxes, scores, labels = weighted_box_fusion(found, iou_threshold=self.iou)
        else:
            boxes, scores, labels = _joined(found)
            method = {"nms": "hard", "soft_nms": "soft_linear"}[self.method]
            keep, scores = suppress(
                boxes, scores, labels, method=method, iou_threshold=self.iou, min_score=self.score_threshold
            )
            boxes, labels = boxes[keep], labels[keep]
        most = self.detections_per_image
        return Detections(boxes[:most], scores[:most], labels[:most], image_size_hw=found[0].image_size_hw)


def weighted_box_fusion(
    found: Sequence[Detections], *, iou_threshold: float = 0.55, weights: Sequence[float] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (C, 4), scores (C,), labels (C,), the best first: Solovyev et al. (2021), section 3, with mean scores.

    By decreasing score, each box joins the cluster of its class whose mean box it overlaps most, if by more than
    `iou_threshold`, or else begins one. A cluster's box is the mean of its boxes weighted by their scores; its score
    is the mean of theirs, times the share of the T views (by weight) that can have seen it: min(T, members) / T.
    `weights` multiply the scores of each view (default: 1).
    """
    factors = [1.0] * len(found) if weights is None else [float(weight) for weight in weights]
    if len(factors) != len(found):
        raise ValueError(f"weights: got {len(factors)}, expected one for each of the {len(found)} views")
    boxes, scores, labels = _joined(found, factors)
    device = boxes.device
    boxes, scores, labels = boxes.cpu(), scores.cpu(), labels.cpu()  # box after box: no work for a GPU
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > 0]  # what has no weight moves nothing
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    cluster = _clusters(boxes, scores, labels, iou_threshold)
    first = [cluster.index(number) for number in range(len(set(cluster)))]
    index = torch.tensor(cluster, dtype=torch.int64)
    sums = boxes.new_zeros(len(first), 4).index_add_(0, index, boxes * scores[:, None])
    total = scores.new_zeros(len(first)).index_add_(0, index, scores)
    members = torch.bincount(index, minlength=len(first))
    fused_scores = total / members * members.clamp(max=len(found)) / sum(factors)
    best = fused_scores.argsort(descending=True, stable=True)
    fused = (sums / total[:, None])[best], fused_scores[best], labels[first][best]
    return fused[0].to(device), fused[1].to(device), fused[2].to(device)


def _joined(found: Sequence[Detections], factors: Sequence[float] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (D, 4), scores (D,) times their view's factor, labels (D,) of all views."""
    scores = [each.scores if factors is None else each.scores * factors[i] for i, each in enumerate(found)]
    return torch.cat([each.boxes_xyxy for each in found]), torch.cat(scores), torch.cat([each.labels for each in found])


def _clusters(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> list[int]:
    """The number of the cluster of each box (D, 4); boxes come by decreasing score."""
    sums, totals, classes = torch.zeros_like(boxes), torch.zeros_like(scores), torch.full_like(labels, -1)
    numbers: list[int] = []
    count = 0
    for box, score, label in zip(boxes, scores, labels, strict=True):
        iou = pairwise_iou(box[None], sums[:count] / totals[:count, None])[0]
        iou = torch.where(classes[:count] == label, iou, -1.0)
        number = int(iou.argmax()) if count and float(iou.max()) > iou_threshold else count
        count = max(count, number + 1)
        sums[number] += score * box
        totals[number] += score
        classes[number] = label
        numbers.append(number)
    return numbers
