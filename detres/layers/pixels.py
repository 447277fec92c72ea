"""PixelNormalizer: from pixels in 0..255 to what a network was trained on.

Shapes: N images, H and W padded height and width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detres.structures import ImageBatch


class PixelNormalizer(nn.Module):
    """Subtract the mean and divide by the standard deviation per channel; the padding becomes zero again.

    `mean` and `std` are on the 0..255 scale and in `channel_order`: "rgb" (torchvision, timm) or "bgr" (Caffe, MSRA,
    detectron2). `size_divisibility` is what the network's strides ask of a padded batch.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        channel_order: str = "rgb",
        size_divisibility: int = 32,
    ) -> None:
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order must be 'rgb' or 'bgr', got {channel_order!r}")
        self.channel_order = channel_order
        self.size_divisibility = size_divisibility
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: ImageBatch) -> Tensor:
        """Normalised pixels (N, 3, H, W), float32, in `channel_order`."""
        pixels = images.pixels.to(self.mean.dtype)
        if self.channel_order == "bgr":
            pixels = pixels.flip(1)
        pixels = (pixels - self.mean) / self.std
        return pixels * self._inside(images)

    @staticmethod
    def _inside(images: ImageBatch) -> Tensor:
        """1 inside the images, 0 in the padding: (N, 1, H, W)."""
        height, width = images.pixels.shape[-2:]
        rows = torch.arange(height, device=images.pixels.device) < images.sizes_hw[:, :1]
        columns = torch.arange(width, device=images.pixels.device) < images.sizes_hw[:, 1:]
        return (rows[:, None, :, None] & columns[:, None, None, :]).to(torch.float32)
