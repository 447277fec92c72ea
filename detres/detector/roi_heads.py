"""The second stage: classify and refine every proposal (Girshick, 2015).

Shapes: N images, R proposals per image, S sampled regions per image, M = N * R (or N * S) regions, K classes,
D candidates or detections of one image.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detres.detector.box_coder import BoxCoder
from detres.detector.box_head import BoxPredictor
from detres.detector.hard_examples import hardest, only_looking
from detres.detector.losses import BoxLoss
from detres.detector.region_targets import LabelledRegions, label_regions
from detres.detector.selection import Selection
from detres.detector.target_assignment import sample
from detres.layers.roi_pool import RoIPooler
from detres.structures import Detections, GroundTruth, ImageBatch, Proposals
from detres.structures.processes import batch_count

_SAMPLING_KEY = 0x526F49  # keeps the RoI heads' random choice apart from the RPN's


class RoIHeads(nn.Module):
    """Pooling, box head and predictor, the targets and losses of training, the selection of detections at test time.

    names: the feature levels to pool from. The settings are those of detres.config.model.RoIHeadSettings. With
    `global_context` (He et al., 2016, appendix B) the predictor takes twice what the box head gives: the feature of
    the region and that of the whole image, which goes through the same pooling and box head.
    """

    def __init__(
        self,
        names: Sequence[str],
        pooler: RoIPooler,
        box_head: nn.Module,
        box_predictor: BoxPredictor,
        *,
        global_context: bool = False,
        positive_iou: float = 0.5,
        negative_iou: float = 0.5,
        batch_size: int = 512,
        positive_fraction: float = 0.25,
        ohem: bool = False,
        ohem_nms_iou: float = 0.7,
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
        self.global_context = global_context
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.batch_size, self.positive_fraction = batch_size, positive_fraction
        self.ohem, self.ohem_nms_iou = ohem, ohem_nms_iou
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

    def regions(self, images: ImageBatch, features: Mapping[str, Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (M, K + 1) and deltas (M, box rows, 4) of boxes (N, R, 4)."""
        return self.box_predictor(self.vectors(self.pool(images, features, boxes), len(boxes)))

    def pool(self, images: ImageBatch, features: Mapping[str, Tensor], boxes: Tensor) -> Tensor:
        """Features of the boxes (N, R, 4), cut out; with global context the image's own box follows on each image's.

        (M, C, S, S), or (N * (R + 1), C, S, S).
        """
        if self.global_context:
            boxes = torch.cat([boxes, _whole_images(images.sizes_hw).to(boxes)], dim=1)
        return self.pooler([features[name] for name in self.names], boxes)

    def vectors(self, pooled: Tensor, num_images: int) -> Tensor:
        """Feature vectors (M, D), for the predictor, of what `pool` gives."""
        hidden: Tensor = self.box_head(pooled)
        if self.global_context:
            per_image = hidden.unflatten(0, (num_images, -1))
            own, whole = per_image[:, :-1], per_image[:, -1:]
            hidden = torch.cat([own, whole.expand_as(own)], dim=2).flatten(0, 1)
        return hidden

    def losses(
        self, images: ImageBatch, features: Mapping[str, Tensor], proposals: Proposals, targets: GroundTruth
    ) -> dict[str, Tensor]:
        """Classification and box loss on a sample of the proposals (and of the ground truth itself)."""
        regions = self.sample_regions(images, features, proposals, targets)
        logits, deltas = self.regions(images, features, regions.boxes_xyxy)
        return self.region_losses(logits, deltas, regions)

    def region_losses(self, logits: Tensor, deltas: Tensor, regions: LabelledRegions) -> dict[str, Tensor]:
        """Both losses, means over the valid regions, of their logits (M, K + 1) and deltas (M, box rows, 4)."""
        classification, box = self.losses_of_each(logits, deltas, regions)
        count = batch_count(regions.valid.sum())
        return {"loss_classifier": classification.sum() / count, "loss_box": box.sum() / count}

    def losses_of_each(self, logits: Tensor, deltas: Tensor, regions: LabelledRegions) -> tuple[Tensor, Tensor]:
        """Classification loss (M,) and weighted box loss (M,) of every region; zero where it is not valid."""
        labels, valid = regions.labels.flatten(), regions.valid.flatten().float()
        classification = F.cross_entropy(logits, self.box_predictor.class_row(labels), reduction="none")
        num_classes = self.box_predictor.num_classes
        positive = (labels < num_classes).float() * valid
        deltas = self.box_predictor.deltas_of(deltas, labels.clamp(max=num_classes - 1))
        boxes, matched_boxes = regions.boxes_xyxy.flatten(0, 1), regions.matched_boxes.flatten(0, 1)
        box = self.box_loss.each(deltas, boxes, matched_boxes, positive)
        return classification * valid, self.box_loss_weight * box

    @torch.no_grad()
    def sample_regions(
        self, images: ImageBatch, features: Mapping[str, Tensor], proposals: Proposals, targets: GroundTruth
    ) -> LabelledRegions:
        """Regions to learn from: drawn at random, or with `ohem` those of the largest losses; (N, S)."""
        boxes, usable = proposals.boxes_xyxy, proposals.valid
        if self.add_ground_truth:
            boxes = torch.cat([boxes, targets.boxes_xyxy], dim=1)
            usable = torch.cat([usable, targets.valid], dim=1)
        candidates = self.label(boxes, usable, targets)
        labels = candidates.assignment(self.box_predictor.num_classes)
        if self.ohem:
            losses = self._losses_as_they_stand(images, features, candidates)
            return candidates.take(hardest(losses, boxes, labels, self.batch_size, self.ohem_nms_iou))
        seeds = images.sampling_seeds ^ _SAMPLING_KEY
        return candidates.take(sample(labels, seeds, self.batch_size, self.positive_fraction))

    def label(self, boxes: Tensor, usable: Tensor, targets: GroundTruth) -> LabelledRegions:
        """Targets of boxes (N, R, 4) by this stage's thresholds; `usable` (N, R) is false for padding."""
        num_classes = self.box_predictor.num_classes
        return label_regions(boxes, usable, targets, self.positive_iou, self.negative_iou, num_classes)

    def _losses_as_they_stand(
        self, images: ImageBatch, features: Mapping[str, Tensor], regions: LabelledRegions
    ) -> Tensor:
        """The sum of both losses (N, R) of all regions, without gradient."""
        with only_looking(self.box_head, self.box_predictor):
            logits, deltas = self.regions(images, features, regions.boxes_xyxy)
        classification, box = self.losses_of_each(logits, deltas, regions)
        return (classification + box).view_as(regions.valid)

    def score_regions(
        self, images: ImageBatch, boxes: Tensor, vectors_of: "VectorsOf"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class probabilities (M, K) for boxes (N, R, 4), deltas (M, box rows, 4), and what those start from."""
        logits, deltas = self.box_predictor(vectors_of(self, boxes))
        return self.box_predictor.probabilities(logits), deltas, boxes

    @torch.no_grad()
    def predict_regions(
        self, images: ImageBatch, features: Mapping[str, Tensor], boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class probabilities (N, R, K) without the background's, and new boxes (N, R, K, 4), of boxes (N, R, 4).

        The new boxes are not clipped; class-agnostic regression gives one for all classes: (N, R, 1, 4).
        """
        return self.predict_from(images, boxes, RegionVectors(images, features))

    @torch.no_grad()
    def predict_from(self, images: ImageBatch, boxes: Tensor, vectors_of: "VectorsOf") -> tuple[Tensor, Tensor]:
        """As predict_regions, with feature vectors that somebody else provides."""
        scores, deltas, references = self.score_regions(images, boxes, vectors_of)
        decoded = self.coder.decode(self.box_predictor.class_deltas(deltas), references.flatten(0, 1)[:, None])
        return scores.unflatten(0, boxes.shape[:2]), decoded.unflatten(0, boxes.shape[:2])

    @torch.no_grad()
    def detect(self, images: ImageBatch, features: Mapping[str, Tensor], proposals: Proposals) -> list[Detections]:
        """Detections of every image, in pixels of the resized images."""
        vectors_of = RegionVectors(images, features)
        scores, deltas, boxes = self.score_regions(images, proposals.boxes_xyxy, vectors_of)
        per_image = boxes.shape[1]
        return [
            self._detect_one(
                scores[i * per_image : (i + 1) * per_image][valid],
                deltas[i * per_image : (i + 1) * per_image][valid],
                boxes[i][valid],
                size_hw,
            )
            for i, (valid, size_hw) in enumerate(zip(proposals.valid, images.sizes_hw, strict=True))
        ]

    def _detect_one(self, scores: Tensor, deltas: Tensor, regions: Tensor, size_hw: Tensor) -> Detections:
        """Only the candidates above the threshold are decoded: a few hundred of R * K."""
        finite = torch.isfinite(scores).all(1) & torch.isfinite(deltas).flatten(1).all(1)
        region, label = ((scores > self.score_threshold) & finite[:, None]).nonzero(as_tuple=True)
        boxes = self.coder.decode(deltas[region, self.box_predictor.box_row(label)], regions[region])
        return self.select(boxes, scores[region, label], label, size_hw)

    def select(self, boxes: Tensor, scores: Tensor, labels: Tensor, size_hw: Tensor) -> Detections:
        """Clip the candidates (D, 4) to the image, NMS within each class, keep the best."""
        selection = Selection(
            self.score_threshold,
            self.nms,
            self.nms_iou,
            self.soft_nms_sigma,
            self.detections_per_image,
            self.min_size,
        )
        return selection.of_candidates(boxes, scores, labels, size_hw)


VectorsOf = Callable[[RoIHeads, Tensor], Tensor]
"""Feature vectors (M, D), for the predictor of a stage, of boxes (N, R, 4)."""


class RegionVectors:
    """The VectorsOf of one batch; several stages that see the same boxes share the pooling."""

    def __init__(self, images: ImageBatch, features: Mapping[str, Tensor]) -> None:
        self._images, self._features = images, features
        self._pooled: tuple[Tensor, Tensor] | None = None

    def __call__(self, stage: RoIHeads, boxes: Tensor) -> Tensor:
        if self._pooled is None or self._pooled[0] is not boxes:
            self._pooled = boxes, stage.pool(self._images, self._features, boxes)
        return stage.vectors(self._pooled[1], len(boxes))


def _whole_images(sizes_hw: Tensor) -> Tensor:
    """The box (N, 1, 4) of each image without its padding."""
    height, width = sizes_hw[:, 0], sizes_hw[:, 1]
    return torch.stack([height * 0, width * 0, width, height], dim=1)[:, None]
