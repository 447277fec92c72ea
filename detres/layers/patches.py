"""Small windows of feature maps around chosen cells.

Shapes: N images, L levels of (N, C, H_l, W_l), M cells, w = 2 * radius + 1 the side of a window.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def cut_patches(features: Sequence[Tensor], cells: Tensor, per_image: int, radius: int) -> tuple[Tensor, Tensor]:
    """Windows (M, w, w, C) around the cells, zero beyond the map, and 1 where they are inside it: (M, w, w, 1).

    cells (M,) int64 count through the levels, each row by row; the first `per_image` are of the first image, and so
    on. The gradient reaches the cells of the windows alone. Nothing is copied between host and device.
    """
    rows = torch.cat([feature.permute(0, 2, 3, 1).flatten(1, 2) for feature in features], dim=1)  # (N, cells, C)
    first, height, width = _places(features, cells)
    y, x = torch.div(cells - first, width, rounding_mode="floor"), (cells - first) % width
    reach = torch.arange(-radius, radius + 1, device=cells.device)
    y, x = y[:, None] + reach, x[:, None] + reach  # (M, w)
    inside = ((y >= 0) & (y < height[:, None]))[:, :, None] & ((x >= 0) & (x < width[:, None]))[:, None, :]
    y, x = torch.minimum(y.clamp(min=0), height[:, None] - 1), torch.minimum(x.clamp(min=0), width[:, None] - 1)
    image = torch.arange(len(cells), device=cells.device) // per_image
    index = (
        image[:, None, None] * rows.shape[1]
        + first[:, None, None]
        + y[:, :, None] * width[:, None, None]
        + x[:, None, :]
    )
    patches = rows.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)
    kept = inside[..., None].to(patches.dtype)
    return patches * kept, kept


def _places(features: Sequence[Tensor], cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each cell's level: the number of its first cell, its height and its width, (M,) int64 each."""
    first, height, width = (torch.zeros_like(cells) for _ in range(3))
    start = 0
    for feature in features:
        here = cells >= start  # levels rise: the last one that holds is the cell's own
        first, height, width = (
            old.masked_fill(here, new)
            for old, new in ((first, start), (height, feature.shape[-2]), (width, feature.shape[-1]))
        )
        start += feature.shape[-2] * feature.shape[-1]
    return first, height, width
