"""Cutting regions out of feature maps: RoIAlign or RoIPool, on one level or on a pyramid.

Shapes: N images, R regions per image, C channels, S the output size, L levels.
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from detres.layers.roi_align import roi_align_rows

_OUTSIDE = -1e5  # pixels


def assign_levels(
    boxes: Tensor, min_level: int, max_level: int, canonical_size: float = 224.0, canonical_level: int = 4
) -> Tensor:
    """The pyramid level of each box (..., 4), as in FPN (Lin et al., 2017, equation 1), clamped to those there are.

    A box whose sides have the geometric mean `canonical_size` goes to `canonical_level`; each doubling is one level up.
    """
    size = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=0).sqrt()
    level = torch.floor(canonical_level + torch.log2(size / canonical_size) + 1e-6)  # the epsilon is torchvision's
    return level.clamp(min_level, max_level).to(torch.int64)


class RoIPooler(nn.Module):
    """Pool every region to S x S from the level that fits its size.

    strides         of the feature maps that are passed to forward, rising
    type            "roi_align" (He et al., 2017) or "roi_pool" (Girshick, 2015)
    sampling_ratio  points per bin and side; 0 (or -1): as many as the bin covers cells
    aligned         RoIAlign with half a cell's shift (detectron2); False: without (torchvision)
    """

    def __init__(
        self,
        strides: Sequence[int],
        *,
        type: str = "roi_align",
        output_size: int = 7,
        sampling_ratio: int = 0,
        aligned: bool = True,
        canonical_size: float = 224.0,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        if type not in ("roi_align", "roi_pool"):
            raise ValueError(f"type must be 'roi_align' or 'roi_pool', got {type!r}")
        self.strides, self.method, self.output_size = list(strides), type, output_size
        self.sampling_ratio, self.aligned = sampling_ratio, aligned
        self.canonical_size, self.canonical_level = canonical_size, canonical_level
        self.min_level, self.max_level = (round(math.log2(stride)) for stride in (strides[0], strides[-1]))
        if self.max_level - self.min_level != len(strides) - 1:
            raise ValueError(f"pooling over a pyramid needs strides that double from level to level, got {strides}")

    def forward(self, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Features of all regions (N * R, C, S, S); features: L maps (N, C, H, W); boxes (N, R, 4) in image pixels."""
        rois, levels = self.place(boxes)
        if self.method == "roi_align" and boxes.device.type == "cpu":
            return roi_align_rows(
                features,
                rois,
                levels,
                output_size=self.output_size,
                scales=[1.0 / stride for stride in self.strides],
                sampling_ratio=self.sampling_ratio,
                aligned=self.aligned,
            )
        return self.pool_by_operator(features, rois, levels)

    def place(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, R, 4) with the numbers of their images, (N * R, 5), and their levels (N * R,), counted from 0."""
        num_images, num_regions = boxes.shape[:2]
        image = torch.arange(num_images, device=boxes.device).repeat_interleave(num_regions)
        rois = torch.cat([image[:, None].to(boxes.dtype), boxes.reshape(-1, 4)], dim=1)
        size, level = self.canonical_size, self.canonical_level
        return rois, assign_levels(rois[:, 1:], self.min_level, self.max_level, size, level) - self.min_level

    def pool_by_operator(self, features: Sequence[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        """By torchvision's operators, every region at every level: where it does not belong it lies outside of the map.

        There the operators do nothing and give zeros, so that the sum over the levels is what each region's own gave.
        That costs less than to sort regions by level, for which the host would have to wait for the device.
        """
        if len(features) == 1:
            return self._pool(features[0], rois, self.strides[0])
        outside = torch.cat([rois[:, :1], torch.full_like(rois[:, 1:], _OUTSIDE)], dim=1)
        pooled = [
            self._pool(feature, torch.where((levels == level)[:, None], rois, outside), stride)
            for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True))
        ]
        return reduce(torch.add, pooled)

    def _pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Regions (M, 5: image, x1, y1, x2, y2) of one map, by torchvision's operators, which take single precision.

        Half precision would round a corner of 801 pixels to 800 or 804.
        """
        values = feature.to(rois.dtype)
        if self.method == "roi_pool":
            return roi_pool(values, rois, self.output_size, 1.0 / stride).to(feature.dtype)
        pooled = roi_align(values, rois, self.output_size, 1.0 / stride, self.sampling_ratio, self.aligned)
        return pooled.to(feature.dtype)
