"""FlatLinear: the first fully connected layer after maps.

Shapes: M maps of C channels and S x S cells, K output channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FlatLinear(nn.Linear):
    """nn.Flatten and nn.Linear in one, with the parameters of nn.Linear(channels * size**2, out_features)."""

    def __init__(self, channels: int, size: int, out_features: int) -> None:
        super().__init__(channels * size**2, out_features)
        self.channels, self.size = channels, size

    def forward(self, maps: Tensor) -> Tensor:
        """(M, C, S, S) -> (M, K)."""
        if self.weight.dim() == 2:
            return super().forward(maps.flatten(1))
        return F.conv2d(maps, self.weight, self.bias).flatten(1)

    @torch.no_grad()
    def become_convolution(self) -> None:
        """Compute the same as a convolution from now on, the weight being (K, C, S, S).

        Maps in channels_last memory need not be rearranged then, and on CPUs oneDNN's convolutions are faster than the
        matrix products of MKL where that does not know the processor.
        """
        weight = self.weight.view(self.out_features, self.channels, self.size, self.size)
        self.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
