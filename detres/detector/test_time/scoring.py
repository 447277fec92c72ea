"""Regions and what a network says about them, at one scale.

Shapes: N images, R regions per image, K classes.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from detres.detector.faster_rcnn import FasterRCNN
from detres.structures import ImageBatch


class Scorer(Protocol):
    """Something that classifies and refines regions of the images that it was made for."""

    def score(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Class probabilities (N, R, K) and new boxes (N, R, K, 4), or (N, R, 1, 4) for all classes, of (N, R, 4)."""


class OneScale:
    """A network's RoI heads on the features of one batch, which it computes once."""

    def __init__(self, model: FasterRCNN, images: ImageBatch) -> None:
        self._heads, self._images = model.roi_heads, images
        self.features = model.features(images)

    def score(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """As Scorer.score; boxes in pixels of the batch."""
        return self._heads.predict_regions(self._images, self.features, boxes)


@dataclass(frozen=True)
class Predictions:
    """What was found in the regions of N images.

    scores  (N, R, K) probabilities, without the background's
    boxes   (N, R, K, 4), or (N, R, 1, 4) for all classes; not clipped
    valid   (N, R) bool, false where there was no region
    """

    scores: Tensor
    boxes: Tensor
    valid: Tensor

    @classmethod
    def join(cls, parts: "list[Predictions]") -> "Predictions":
        """The union of predictions about the same images."""
        return cls(
            *(torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("scores", "boxes", "valid"))
        )
