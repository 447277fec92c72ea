"""What the regions of the second stage have to learn: their classes and boxes.

Shapes: N images, R regions per image, S chosen regions per image, G ground-truth boxes, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from detres.detector.target_assignment import IGNORED, NEGATIVE, POSITIVE, Sample, assign
from detres.structures import GroundTruth


@dataclass(frozen=True)
class LabelledRegions:
    """Regions with their targets.

    boxes_xyxy     (N, R, 4) in pixels of the resized images
    labels         (N, R) int64, 0 ... K-1, or K for the background
    matched_boxes  (N, R, 4) the object of best IoU, zeros where the batch has none
    valid          (N, R) bool, false for padding and for what is neither object nor background
    """

    boxes_xyxy: Tensor
    labels: Tensor
    matched_boxes: Tensor
    valid: Tensor

    def assignment(self, num_classes: int) -> Tensor:
        """Labels (N, R) for sampling: POSITIVE, NEGATIVE or IGNORED."""
        labels = torch.where(self.labels < num_classes, POSITIVE, NEGATIVE)
        return labels.masked_fill(~self.valid, IGNORED)

    def take(self, chosen: Sample) -> "LabelledRegions":
        """The chosen regions, (N, S)."""
        wide = chosen.index[:, :, None].expand(-1, -1, 4)
        return LabelledRegions(
            self.boxes_xyxy.gather(1, wide),
            self.labels.gather(1, chosen.index),
            self.matched_boxes.gather(1, wide),
            chosen.valid,
        )


def label_regions(
    boxes: Tensor, usable: Tensor, targets: GroundTruth, positive_iou: float, negative_iou: float, num_classes: int
) -> LabelledRegions:
    """Give the boxes (N, R, 4) the class and box of their best object; `usable` (N, R) leaves padding out."""
    assignment = assign(boxes, targets, positive_iou, negative_iou, low_quality=False)
    valid = usable & (assignment.labels != IGNORED)
    if targets.labels.shape[1] == 0:
        background = torch.full_like(assignment.labels, num_classes)
        return LabelledRegions(boxes, background, torch.zeros_like(boxes), valid)
    classes = targets.labels.gather(1, assignment.matches)
    labels = torch.where(assignment.labels == POSITIVE, classes, num_classes)
    matched_boxes = targets.boxes_xyxy.gather(1, assignment.matches[:, :, None].expand(-1, -1, 4))
    return LabelledRegions(boxes, labels, matched_boxes, valid)
