"""Multi-scale testing with maxout (ResNet paper, appendix B; Ren et al., "Object detection networks on convolutional
feature maps", 2015).

"RoI pooling and subsequent layers are performed on the feature maps of these two scales, which are merged by maxout":
the box head (conv5_x, or the fully connected layers) runs on both scales, the elementwise maximum of its two vectors
goes to the predictors.

Shapes: N images, R regions per image, S scales, D length of a feature vector.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detres.detector.faster_rcnn import FasterRCNN
from detres.detector.roi_heads import RoIHeads
from detres.detector.test_time.views import one_image
from detres.structures import ImageBatch
from detres.structures.boxes import box_area


def nearest_scales(boxes: Tensor, ratios: Tensor, region_size: float, count: int = 2) -> Tensor:
    """At which scales the areas of boxes (R, 4) are nearest to region_size^2: (S, R) bool, `count` in each column.

    ratios: (S, 2) by which heights and widths grow at each scale. The rule is that of Fast R-CNN and SPPnet for one
    scale. An area grows with the scale, so the two nearest are neighbours in the pyramid.
    """
    areas = box_area(boxes)[None] * ratios.prod(dim=1)[:, None]
    nearest = (areas - region_size**2).abs().topk(min(count, len(ratios)), dim=0, largest=False).indices
    return torch.zeros_like(areas, dtype=torch.bool).scatter_(0, nearest, True)


class TwoScales:
    """A network's RoI heads on an image pyramid, every region at the two scales that suit it.

    frame        the batch in whose pixels regions are given
    pyramid      the same images at each of S scales
    region_size  the side of a square whose area suits the head best (pixels)
    """

    def __init__(self, model: FasterRCNN, frame: ImageBatch, pyramid: Sequence[ImageBatch], region_size: float) -> None:
        self._heads, self._frame, self._pyramid, self._region_size = model.roi_heads, frame, pyramid, region_size
        self._features = [model.features(images) for images in pyramid]
        self._ratios = torch.stack([images.sizes_hw / frame.sizes_hw for images in pyramid])  # (S, N, 2)
        self._pooled: tuple[Tensor, list[list[_Pooled]]] | None = None

    def score(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """As Scorer.score; boxes in pixels of the frame."""
        return self._heads.predict_from(self._frame, boxes, self.vectors)

    def vectors(self, stage: RoIHeads, boxes: Tensor) -> Tensor:
        """The maximum (N * R, D) of the two feature vectors of each box (N, R, 4), for the predictor of a stage."""
        if self._pooled is None or self._pooled[0] is not boxes:  # a cascade's stages share them
            self._pooled = boxes, [self._pool(stage, i, boxes[i]) for i in range(len(boxes))]
        return torch.cat([_maximum(stage, scales, boxes.shape[1]) for scales in self._pooled[1]])

    def _pool(self, stage: RoIHeads, image: int, boxes: Tensor) -> "list[_Pooled]":
        """The regions (R, 4) of one image, cut out at their two scales; scale by scale, as all have other sizes."""
        ratios, parts = self._ratios[:, image], []
        for scale, rows in enumerate(nearest_scales(boxes, ratios, self._region_size)):
            scaled = boxes[rows] * ratios[scale].flip(0).repeat(2)
            features = {name: maps[image : image + 1] for name, maps in self._features[scale].items()}
            parts.append(_Pooled(rows, stage.pool(one_image(self._pyramid[scale], image), features, scaled[None])))
        return parts


class _Pooled(NamedTuple):
    """What RoIHeads.pool cut out at one scale, and for which regions of an image: (R,) bool."""

    rows: Tensor
    regions: Tensor


def _maximum(stage: RoIHeads, scales: Sequence[_Pooled], num_regions: int) -> Tensor:
    """The elementwise maximum (R, D) of the feature vectors of one image's regions over the scales."""
    found = [stage.vectors(scale.regions, 1) for scale in scales]
    merged = found[0].new_full((num_regions, found[0].shape[1]), -torch.inf)
    for vectors, (rows, _) in zip(found, scales, strict=True):
        merged[rows] = torch.maximum(merged[rows], vectors)
    return merged
