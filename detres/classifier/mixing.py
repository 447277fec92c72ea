"""Mixup and CutMix: training on two images at once, with the loss of both labels.

Shapes: N images, H and W padded height and width. Each image is mixed with the next one of the batch (the last with
the first). What is drawn for an image depends on its sampling seed alone, and stays on the device.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detres.structures import ImageBatch
from detres.structures.processes import next_in_batch
from detres.structures.random import keyed_uniform


class MixedBatch(NamedTuple):
    """What Mixing returns.

    images    the mixed pixels, float32, where the plain ones were
    partners  (N,) int64, the label of the image that was mixed in
    share     (N,) float32, the weight of the image's own label; 1 - share is the partner's
    """

    images: ImageBatch
    partners: Tensor
    share: Tensor


class Mixing(nn.Module):
    """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019), chosen for each image.

    mixup, cutmix       alpha of the share's distribution Beta(alpha, alpha); 0 switches the method off
    probability         share of the images that are mixed at all
    switch_probability  share of these that get CutMix, where both methods are on

    Raises ValueError when both methods are off, and in a batch of images of unequal sizes.
    """

    _mixup_shares: Tensor
    _cutmix_shares: Tensor

    def __init__(
        self, mixup: float = 0.2, cutmix: float = 1.0, *, probability: float = 1.0, switch_probability: float = 0.5
    ) -> None:
        super().__init__()
        if min(mixup, cutmix) < 0 or max(mixup, cutmix) == 0:
            raise ValueError(f"mixing needs mixup or cutmix above 0 and neither below, got {mixup} and {cutmix}")
        self.probability = probability
        self.switch_probability = switch_probability if min(mixup, cutmix) > 0 else float(cutmix > 0)
        self.register_buffer("_mixup_shares", beta_quantiles(mixup or 1.0), persistent=False)
        self.register_buffer("_cutmix_shares", beta_quantiles(cutmix or 1.0), persistent=False)
        self._sizes_are_checked = False

    def forward(self, images: ImageBatch, labels: Tensor) -> MixedBatch:
        """Mix a batch with labels (N,) int64; call in training only."""
        self._check_sizes(images)
        drawn = keyed_uniform(images.sampling_seeds, 5)
        mixed, cut = drawn[:, 0] < self.probability, drawn[:, 1] < self.switch_probability
        low, high = _cuts(images.sizes_hw, _quantile(self._cutmix_shares, drawn[:, 2]), drawn[:, 3:])
        cutmix_share = 1.0 - (high - low).prod(dim=1) / images.sizes_hw.prod(dim=1)
        mixup_share = _quantile(self._mixup_shares, drawn[:, 2])
        share = torch.where(mixed, torch.where(cut, cutmix_share, mixup_share), 1.0)
        outside = 1.0 - _rectangles(low, high, images.pixels.shape[-2:]).float()
        weights = torch.where((mixed & cut)[:, None, None], outside, share[:, None, None])
        pixels = images.pixels.float()
        pixels = torch.lerp(next_in_batch(pixels), pixels, weights[:, None])
        return MixedBatch(replace(images, pixels=pixels), next_in_batch(labels), share)

    def _check_sizes(self, images: ImageBatch) -> None:
        """Every batch on the CPU; on an accelerator the first one only, since looking makes the host wait."""
        if torch.compiler.is_compiling() or (self._sizes_are_checked and images.sizes_hw.device.type != "cpu"):
            return
        self._sizes_are_checked = True
        if (images.sizes_hw != images.sizes_hw[:1]).any():
            found = ", ".join(f"{width} x {height}" for height, width in images.sizes_hw.unique(dim=0).tolist()[:4])
            raise ValueError(
                f"mixing got images of unequal sizes in one batch ({found} ...), expected one size: end the training "
                "transforms with a step that makes it, such as random_resized_crop, or set model.mixing to null"
            )


def beta_quantiles(alpha: float, count: int = 4097) -> Tensor:
    """The quantile function of Beta(alpha, alpha) at `count` even steps from 0 to 1, float32.

    Read at a uniform number it gives a Beta-distributed one in a single step, without the rejections of a sampler.
    """
    import numpy as np
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, np.linspace(0.0, 1.0, count))).float()


def _quantile(table: Tensor, uniform: Tensor) -> Tensor:
    """The table (T,) read at `uniform` (N,) in [0, 1), linearly between its entries."""
    position = uniform * (len(table) - 1)
    below = position.floor().long()
    return torch.lerp(table[below], table[below + 1], position - below)


def _cuts(sizes_hw: Tensor, share: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """First and end rows and columns, (N, 2) int64 each, of the rectangle that CutMix takes from the partner.

    It has sqrt(1 - share) of the image's sides, and its centre is at `centers` (N, 2), in 0..1 of height and width:
    what lies outside the image is lost, so that the image often keeps more than its `share` (N,).
    """
    half = (sizes_hw * (0.5 * (1.0 - share).sqrt())[:, None]).long()
    middle = (sizes_hw * centers).long()
    return (middle - half).clamp(min=0), torch.minimum(middle + half, sizes_hw)


def _rectangles(low: Tensor, high: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Which pixels of (H, W) lie in the rectangle [low, high) of each image: (N, H, W) bool."""
    rows, columns = (torch.arange(length, device=low.device) for length in size_hw)
    rows_inside = (rows >= low[:, :1]) & (rows < high[:, :1])
    columns_inside = (columns >= low[:, 1:]) & (columns < high[:, 1:])
    return rows_inside[:, :, None] & columns_inside[:, None, :]
