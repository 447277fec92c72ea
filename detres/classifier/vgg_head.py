"""VGGHead: the fully connected layers of VGG between the last feature map and the classes (arXiv 1409.1556, table 1).

Shapes: N images, C channels, h and w height and width of the last feature map, S the pooled size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detres.classifier.classifier import num_cells_inside
from detres.structures import ImageBatch


class VGGHead(nn.Module):
    """Pool to S x S, then fully connected layers with ReLU and dropout; parameters fc6, fc7, ...

    in_channels  C
    max_pool     begin with VGG's last 2x2 max-pool, which the VGG backbone leaves out
    dropout      probability of dropping a hidden value in training
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int = 4096,
        num_fcs: int = 2,
        max_pool: bool = True,
        pool_size: int = 7,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.max_pool, self.pool_size, self.dropout = max_pool, pool_size, dropout
        width = in_channels * pool_size**2
        for i in range(num_fcs):
            layer = nn.Linear(width, channels)
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
            self.add_module(f"fc{6 + i}", layer)
            width = channels
        self.out_channels = width

    def forward(self, features: Tensor, images: ImageBatch) -> Tensor:
        """Last feature map (N, C, h, w) -> (N, out_channels); ValueError when it is too small for the max-pool."""
        if self.max_pool and min(features.shape[-2:]) < 2:
            height, width = images.pixels.shape[-2:]
            raise ValueError(
                f"images of {width}x{height} pixels leave too small a map for model.head.max_pool: expected at least "
                "2x2 cells, 32x32 pixels with VGG; resize them, or set max_pool to false"
            )
        hidden = _pool_to(self.pool_size, features, images, halve=self.max_pool).flatten(1)
        for layer in self.children():
            hidden = F.dropout(layer(hidden).relu_(), self.dropout, self.training)
        return hidden


def _pool_to(size: int, features: Tensor, images: ImageBatch, halve: bool) -> Tensor:
    """Each image's part of a map (N, C, h, w), padding left out, pooled to (N, C, size, size) as
    nn.AdaptiveAvgPool2d does it; before that, if `halve`, 2x2 max-pooled."""
    padded_hw = images.pixels.shape[-2:]
    rows, columns = (num_cells_inside(features.shape[i - 2], padded_hw[i], images.sizes_hw[:, i]) for i in (0, 1))
    if halve:
        features = F.max_pool2d(features, 2)
        rows, columns = (rows // 2).clamp(min=1), (columns // 2).clamp(min=1)
    down = _bin_weights(size, features.shape[-2], rows).to(features.dtype)
    across = _bin_weights(size, features.shape[-1], columns).to(features.dtype)
    return torch.matmul(torch.matmul(down[:, None], features), across[:, None].mT)


def _bin_weights(num_bins: int, num_cells: int, inside: Tensor) -> Tensor:
    """What each of the cells along one side counts in each bin: (N, num_bins, num_cells), every bin adding up to 1.

    Bin i of an image with n of its cells `inside` (N,) goes from cell floor(i n / bins) to ceil((i + 1) n / bins).
    """
    cells = torch.arange(num_cells, device=inside.device)
    bins = torch.arange(num_bins, device=inside.device)[:, None]
    counts = inside[:, None, None]
    starts, ends = bins * counts // num_bins, ((bins + 1) * counts + num_bins - 1) // num_bins
    return ((cells >= starts) & (cells < ends)) / (ends - starts)
