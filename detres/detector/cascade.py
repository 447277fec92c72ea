"""Cascade R-CNN (Cai and Vasconcelos, 2018): stages that move the boxes, each trained for a stricter IoU.

Shapes: N images, R regions per image, M = N * R regions, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detres.detector.box_head import BoxPredictor
from detres.detector.roi_heads import RoIHeads, VectorsOf
from detres.layers.roi_pool import RoIPooler
from detres.structures import GroundTruth, ImageBatch, Proposals
from detres.structures.boxes import clip_boxes


class CascadeRoIHeads(RoIHeads):
    """The last stage, with the earlier ones that bring the boxes to it.

    What RoIHeads does with its own head and predictor is the last stage: its boxes are the detections. Each earlier
    stage is a RoIHeads with thresholds, box coder, head and predictor of its own; the first one samples what all
    stages learn from. loss_weights: one for each stage, of both its losses.
    """

    def __init__(
        self,
        names: Sequence[str],
        pooler: RoIPooler,
        box_head: nn.Module,
        box_predictor: BoxPredictor,
        *,
        earlier_stages: Sequence[RoIHeads],
        loss_weights: Sequence[float],
        **settings: Any,
    ) -> None:
        super().__init__(names, pooler, box_head, box_predictor, **settings)
        if len(loss_weights) != len(earlier_stages) + 1:
            raise ValueError(f"loss_weights: got {len(loss_weights)}, expected one for each of the "
                             f"{len(earlier_stages) + 1} stages")  # fmt: skip
        self.earlier_stages = nn.ModuleList(earlier_stages)
        self.loss_weights = list(loss_weights)

    @property
    def stages(self) -> list[RoIHeads]:
        """All stages in their order."""
        return [*self.earlier_stages, self]

    def losses(
        self, images: ImageBatch, features: Mapping[str, Tensor], proposals: Proposals, targets: GroundTruth
    ) -> dict[str, Tensor]:
        """Classification and box loss of every stage, on one sample of regions that moves from stage to stage.

        loss_classifier_1, loss_box_1, loss_classifier_2, ...
        """
        regions = self.stages[0].sample_regions(images, features, proposals, targets)
        boxes = regions.boxes_xyxy
        losses: dict[str, Tensor] = {}
        for number, (stage, weight) in enumerate(zip(self.stages, self.loss_weights, strict=True), start=1):
            if number > 1:
                regions = stage.label(boxes, regions.valid & _has_area(boxes), targets)
            logits, deltas = stage.regions(images, features, boxes)
            own = stage.region_losses(logits, deltas, regions)
            losses |= {f"{name}_{number}": weight * loss for name, loss in own.items()}
            boxes = move_boxes(stage, images, boxes, logits, deltas)
        return losses

    def score_regions(self, images: ImageBatch, boxes: Tensor, vectors_of: VectorsOf) -> tuple[Tensor, Tensor, Tensor]:
        """As in RoIHeads, for the boxes that reach the last stage.

        All stages' classifiers judge those boxes, and their probabilities are averaged (the ensemble of the paper).
        """
        for stage in self.stages[:-1]:
            boxes = move_boxes(stage, images, boxes, *stage.box_predictor(vectors_of(stage, boxes)))
        outputs = [stage.box_predictor(vectors_of(stage, boxes)) for stage in self.stages]
        scores = [s.box_predictor.probabilities(logits) for s, (logits, _) in zip(self.stages, outputs, strict=True)]
        return torch.stack(scores).mean(dim=0), outputs[-1][1], boxes


@torch.no_grad()
def move_boxes(stage: RoIHeads, images: ImageBatch, boxes: Tensor, logits: Tensor, deltas: Tensor) -> Tensor:
    """The boxes (N, R, 4) as the stage regresses them, clipped to their images.

    logits (M, K + 1), deltas (M, box rows, 4). Where regression is per class, that of the most probable class counts.
    A box stays where it is when its new place is not finite.
    """
    labels = stage.box_predictor.probabilities(logits).argmax(dim=1)
    moved = stage.coder.decode(stage.box_predictor.deltas_of(deltas, labels), boxes.flatten(0, 1)).view_as(boxes)
    moved = torch.where(torch.isfinite(moved).all(-1, keepdim=True), moved, boxes)
    return clip_boxes(moved, images.sizes_hw)


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] > boxes[..., :2]).all(-1)
