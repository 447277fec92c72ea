"""The second stage: classify and refine every proposal (Girshick, 2015).

Shapes: N images, R proposals per image, S sampled regions per image, M = N * R (or N * S) regions, K classes,
D candidates or detections of one image.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detres.detector.box_coder import BoxCoder
from detres.detector.box_head import BoxPredictor
from detres.detector.losses import BoxLoss
from detres.detector.target_assignment import assign, sample
from detres.layers.nms import batched_nms, soft_nms
from detres.layers.roi_pool import RoIPooler
from detres.structures import Detections, GroundTruth, ImageBatch, Proposals
from detres.structures.boxes import clip_boxes

_SAMPLING_KEY = 0x526F49  # keeps the RoI heads' random choice apart from the RPN's


class RoIHeads(nn.Module):
    """Pooling, box head and predictor, the targets and losses of training, the selection of detections at test time.

    names: the feature levels to pool from. The settings are those of detres.config.model.RoIHeadSettings.
    """

    def __init__(
        self,
        names: Sequence[str],
        pooler: RoIPooler,
        box_head: nn.Module,
        box_predictor: BoxPredictor,
        *,
        positive_iou: float = 0.5,
        negative_iou: float = 0.5,
        batch_size: int = 512,
        positive_fraction: float = 0.25,
        add_ground_truth: bool = True,
        box_loss: str = "l1",
        smooth_l1_beta: float = 0.0,
        box_loss_weight: float = 1.0,
        box_coder_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        score_threshold: float = 0.05,
        nms: str = "hard",
        nms_iou: float = 0.5,
        soft_nms_sigma: float = 0.5,
        detections_per_image: int = 100,
        min_size: float = 0.0,
        symmetric_clamp: bool = False,
    ) -> None:
        super().__init__()
        if nms not in ("hard", "soft_linear", "soft_gaussian"):
            raise ValueError(f"nms must be one of hard, soft_linear, soft_gaussian; got {nms!r}")
        self.names = list(names)
        self.pooler, self.box_head, self.box_predictor = pooler, box_head, box_predictor
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.batch_size, self.positive_fraction = batch_size, positive_fraction
        self.add_ground_truth = add_ground_truth
        self.coder = BoxCoder(box_coder_weights, symmetric_clamp=symmetric_clamp)
        self.box_loss = BoxLoss(self.coder, box_loss, smooth_l1_beta)
        self.box_loss_weight = box_loss_weight
        self.score_threshold, self.nms, self.nms_iou, self.soft_nms_sigma = (
            score_threshold,
            nms,
            nms_iou,
            soft_nms_sigma,
        )
        self.detections_per_image, self.min_size = detections_per_image, min_size

    def regions(self, features: Mapping[str, Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (M, K + 1) and deltas (M, box rows, 4) of boxes (N, R, 4)."""
        pooled = self.pooler([features[name] for name in self.names], boxes)
        return self.box_predictor(self.box_head(pooled))

    def losses(
        self, images: ImageBatch, features: Mapping[str, Tensor], proposals: Proposals, targets: GroundTruth
    ) -> dict[str, Tensor]:
        """Classification and box loss on a sample of the proposals (and of the ground truth itself)."""
        boxes, labels, matched_boxes, valid = self.sample_regions(images, proposals, targets)
        logits, deltas = self.regions(features, boxes)
        labels, valid = labels.flatten(), valid.flatten().float()
        classification = F.cross_entropy(logits, self.box_predictor.class_row(labels), reduction="none")
        num_classes = self.box_predictor.num_classes
        positive = (labels < num_classes).float() * valid
        row = self.box_predictor.box_row(labels.clamp(max=num_classes - 1))
        deltas = deltas[torch.arange(len(deltas), device=deltas.device), row]
        box = self.box_loss(deltas, boxes.flatten(0, 1), matched_boxes.flatten(0, 1), positive)
        count = valid.sum().clamp(min=1)
        return {
            "loss_classifier": (classification * valid).sum() / count,
            "loss_box": self.box_loss_weight * box / count,
        }

    @torch.no_grad()
    def sample_regions(
        self, images: ImageBatch, proposals: Proposals, targets: GroundTruth
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Regions to learn from: boxes (N, S, 4), labels (N, S; K is background), matched boxes (N, S, 4), valid."""
        boxes, usable = proposals.boxes_xyxy, proposals.valid
        if self.add_ground_truth:
            boxes = torch.cat([boxes, targets.boxes_xyxy], dim=1)
            usable = torch.cat([usable, targets.valid], dim=1)
        assignment = assign(boxes, targets, self.positive_iou, self.negative_iou, low_quality=False)
        chosen = sample(
            assignment.labels.masked_fill(~usable, -1),
            images.sampling_seeds ^ _SAMPLING_KEY,
            self.batch_size,
            self.positive_fraction,
        )
        wide = chosen.index[:, :, None].expand(-1, -1, 4)
        background = torch.full_like(chosen.index, self.box_predictor.num_classes)
        if targets.labels.shape[1] == 0:
            return boxes.gather(1, wide), background, torch.zeros_like(wide, dtype=boxes.dtype), chosen.valid
        matches = assignment.matches.gather(1, chosen.index)
        labels = torch.where(chosen.positive, targets.labels.gather(1, matches), background)
        matched_boxes = targets.boxes_xyxy.gather(1, matches[:, :, None].expand(-1, -1, 4))
        return boxes.gather(1, wide), labels, matched_boxes, chosen.valid

    @torch.no_grad()
    def predict_regions(
        self, images: ImageBatch, features: Mapping[str, Tensor], boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class probabilities (N, R, K) without the background's, and new boxes (N, R, K, 4), of boxes (N, R, 4).

        The new boxes are not clipped; class-agnostic regression gives one for all classes: (N, R, 1, 4).
        """
        logits, deltas = self.regions(features, boxes)
        scores = self.box_predictor.probabilities(logits)
        decoded = self.coder.decode(self.box_predictor.class_deltas(deltas), boxes.flatten(0, 1)[:, None])
        return scores.unflatten(0, boxes.shape[:2]), decoded.unflatten(0, boxes.shape[:2])

    @torch.no_grad()
    def detect(self, images: ImageBatch, features: Mapping[str, Tensor], proposals: Proposals) -> list[Detections]:
        """Detections of every image, in pixels of the resized images."""
        logits, deltas = self.regions(features, proposals.boxes_xyxy)
        per_image = proposals.boxes_xyxy.shape[1]
        return [
            self._detect_one(
                logits[i * per_image : (i + 1) * per_image][valid],
                deltas[i * per_image : (i + 1) * per_image][valid],
                boxes[valid],
                size_hw,
            )
            for i, (boxes, valid, size_hw) in enumerate(
                zip(proposals.boxes_xyxy, proposals.valid, images.sizes_hw, strict=True)
            )
        ]

    def _detect_one(self, logits: Tensor, deltas: Tensor, proposals: Tensor, size_hw: Tensor) -> Detections:
        """Only the candidates above the threshold are decoded: a few hundred of R * K."""
        scores = self.box_predictor.probabilities(logits)
        finite = torch.isfinite(scores).all(1) & torch.isfinite(deltas).flatten(1).all(1)
        region, label = ((scores > self.score_threshold) & finite[:, None]).nonzero(as_tuple=True)
        boxes = self.coder.decode(deltas[region, self.box_predictor.box_row(label)], proposals[region])
        return self.select(boxes, scores[region, label], label, size_hw)

    def select(self, boxes: Tensor, scores: Tensor, labels: Tensor, size_hw: Tensor) -> Detections:
        """Clip the candidates (D, 4) to the image, NMS within each class, keep the best."""
        boxes = clip_boxes(boxes, size_hw)
        if self.min_size > 0:
            big = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_size).all(1)
            boxes, scores, labels = boxes[big], scores[big], labels[big]
        if self.nms == "hard":
            keep = batched_nms(boxes, scores, labels, self.nms_iou)[: self.detections_per_image]
            kept_scores = scores[keep]
        else:
            keep, kept_scores = soft_nms(
                boxes,
                scores,
                labels,
                method=self.nms,
                iou_threshold=self.nms_iou,
                sigma=self.soft_nms_sigma,
                min_score=self.score_threshold,
            )
            keep, kept_scores = keep[: self.detections_per_image], kept_scores[: self.detections_per_image]
        return Detections(boxes[keep], kept_scores, labels[keep], image_size_hw=tuple(size_hw.tolist()))
