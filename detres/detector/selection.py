"""From predictions about regions to detections: threshold, NMS, box voting.

Shapes: R regions of one image, K classes, D candidates.
"""

from dataclasses import dataclass

from torch import Tensor

from detres.detector.voting import vote
from detres.layers.nms import suppress
from detres.structures import Detections
from detres.structures.boxes import clip_boxes


@dataclass(frozen=True)
class Selection:
    """The settings are those of RoIHeads; with `voting_iou` the boxes that NMS leaves are moved by vote()."""

    score_threshold: float
    nms: str
    nms_iou: float
    soft_nms_sigma: float
    detections_per_image: int
    min_size: float
    voting_iou: float | None = None

    def __call__(self, scores: Tensor, boxes: Tensor, valid: Tensor, size_hw: Tensor) -> Detections:
        """Detections in an image of `size_hw` (2,): scores (R, K), boxes (R, K, 4) or (R, 1, 4), valid (R,)."""
        region, labels = ((scores > self.score_threshold) & valid[:, None]).nonzero(as_tuple=True)
        boxes = boxes[region, labels if boxes.shape[1] > 1 else 0]
        return self.of_candidates(boxes, scores[region, labels], labels, size_hw)

    def of_candidates(self, boxes: Tensor, scores: Tensor, labels: Tensor, size_hw: Tensor) -> Detections:
        """Clip the candidates (D, 4), which are above the threshold, to the image, NMS within each class, the best."""
        boxes = clip_boxes(boxes, size_hw)
        if self.min_size > 0:
            big = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_size).all(1)
            boxes, scores, labels = boxes[big], scores[big], labels[big]
        keep, kept_scores = suppress(
            boxes,
            scores,
            labels,
            method=self.nms,
            iou_threshold=self.nms_iou,
            sigma=self.soft_nms_sigma,
            min_score=self.score_threshold,
        )
        keep, kept_scores = keep[: self.detections_per_image], kept_scores[: self.detections_per_image]
        kept = boxes[keep]
        if self.voting_iou is not None:
            kept = vote(kept, labels[keep], boxes, scores, labels, self.voting_iou)
        return Detections(kept, kept_scores, labels[keep], image_size_hw=tuple(size_hw.tolist()))
