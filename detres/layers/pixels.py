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

    With `per_pixel_mean` = S, images of S x S pixels have `mean_image` subtracted, which `set_mean_image` provides and
    checkpoints keep (ResNet paper, section 3.4); images of another size have its mean over all positions subtracted.
    """

    mean: Tensor
    std: Tensor
    mean_image: Tensor | None

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        channel_order: str = "rgb",
        size_divisibility: int = 32,
        per_pixel_mean: int | None = None,
    ) -> None:
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order must be 'rgb' or 'bgr', got {channel_order!r}")
        self.channel_order = channel_order
        self.size_divisibility = size_divisibility
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1), persistent=False)
        side = per_pixel_mean
        everywhere = None if side is None else self.mean[0].repeat(1, side, side)
        self.register_buffer("mean_image", everywhere)

    def set_mean_image(self, mean_image: Tensor) -> None:
        """Take over the mean (3, S, S) of all training images, RGB and 0..255."""
        assert self.mean_image is not None, "made without per_pixel_mean"
        self.mean_image.copy_(mean_image.flip(0) if self.channel_order == "bgr" else mean_image)

    def forward(self, images: ImageBatch) -> Tensor:
        """Normalised pixels (N, 3, H, W), float32, in `channel_order`, and in memory in the order of the batch's."""
        pixels = images.pixels if self.channel_order == "rgb" else images.pixels.flip(1)
        height, width = pixels.shape[-2:]
        inside_rows, inside_columns = self._inside(images)
        if pixels.is_contiguous() or not pixels.is_contiguous(memory_format=torch.channels_last):
            mean, std = self._mean_of(height, width), self.std
            inside_rows, inside_columns = inside_rows[:, None, :, None], inside_columns[:, None, None, :]
        else:  # a row of triples as one long row: short innermost loops would take five times as long
            pixels = pixels.permute(0, 2, 3, 1).flatten(2)
            mean = self._mean_of(height, width).permute(0, 2, 3, 1).expand(-1, -1, width, -1).flatten(2)
            std = self.std.reshape(3).repeat(width)
            inside_rows, inside_columns = inside_rows[:, :, None], inside_columns.repeat_interleave(3, 1)[:, None]
        # Dividing by infinity makes the padding zero. Only the first operation makes a tensor: the rest is in place.
        std = torch.where(inside_columns, std, torch.inf)
        normalised = pixels.to(mean.dtype, copy=True).sub_(mean).div_(std).mul_(inside_rows)
        if normalised.dim() == 4:
            return normalised
        return normalised.unflatten(2, (width, 3)).permute(0, 3, 1, 2)

    def _mean_of(self, height: int, width: int) -> Tensor:
        """What to subtract from pixels of that size: (1, 3, 1, 1) or (1, 3, H, W)."""
        if self.mean_image is None:
            return self.mean
        if self.mean_image.shape[1:] == (height, width):
            return self.mean_image[None]
        return self.mean_image.mean(dim=(1, 2), keepdim=True)[None]

    @staticmethod
    def _inside(images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Which rows (N, H) and columns (N, W) of the batch lie in the images, and not in the padding."""
        height, width = images.pixels.shape[-2:]
        rows = torch.arange(height, device=images.pixels.device) < images.sizes_hw[:, :1]
        columns = torch.arange(width, device=images.pixels.device) < images.sizes_hw[:, 1:]
        return rows, columns
