"""Cutting regions out of feature maps: RoIAlign or RoIPool, on one level or on a pyramid.

Shapes: N images, R regions per image, C channels, S the output size, L levels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool


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
    sampling_ratio  points per bin and side; 0: as many as the bin covers cells
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
        num_images, num_regions = boxes.shape[:2]
        image = torch.arange(num_images, device=boxes.device).repeat_interleave(num_regions)
        rois = torch.cat([image[:, None].to(boxes.dtype), boxes.reshape(-1, 4)], dim=1)
        if len(features) == 1:
            return self._pool(features[0], rois, self.strides[0])
        levels = assign_levels(rois[:, 1:], self.min_level, self.max_level, self.canonical_size, self.canonical_level)
        # Level by level, then all back to their places in one go: cheaper, backwards too, than one copy per level.
        by_level = levels.argsort(stable=True)
        counts = torch.bincount(levels - self.min_level, minlength=len(features)).tolist()
        pooled = [
            self._pool(feature, members, stride)
            for feature, members, stride in zip(features, rois[by_level].split(counts), self.strides, strict=True)
        ]
        return torch.cat(pooled).index_select(0, by_level.argsort())

    def _pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Regions (M, 5: image, x1, y1, x2, y2) of one map."""
        # In 16 bits a box of 800 pixels would move by four, and not every device pools in them.
        whole = feature.float()
        if self.method == "roi_pool":
            return roi_pool(whole, rois, self.output_size, 1.0 / stride).to(feature.dtype)
        options = (self.output_size, 1.0 / stride, self.sampling_ratio, self.aligned)
        return roi_align(whole, rois, *options).to(feature.dtype)
