"""PixelNormalizer: from pixels in 0..255 to what a network was trained on.

Shapes: N images, H and W padded height and width.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from detres.structures import ImageBatch

_IN_CACHE = 400_000  # numbers


class PixelNormalizer(nn.Module):
    """Subtract the mean and divide by the standard deviation per channel; the padding becomes zero again.

    `mean` and `std` are on the 0..255 scale and in `channel_order`: "rgb" (torchvision, timm) or "bgr" (Caffe, MSRA,
    detectron2). `size_divisibility` is what the network's strides ask of a padded batch.

    With `per_pixel_mean` = S, batches of S x S pixels have `mean_image` subtracted, which `set_mean_image` provides and
    checkpoints keep (ResNet paper, section 3.4); batches of another size have its mean over all positions subtracted.
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
        mean = self._mean_of(height, width).expand(-1, -1, -1, width)
        scale = inside_columns[:, None, None, :] / self.std  # by which the padding becomes zero
        in_planes = pixels.is_contiguous() or not pixels.is_contiguous(memory_format=torch.channels_last)
        rows, mean, scale = (_as_rows(each, in_planes) for each in (pixels, mean, scale))
        mean, inside_rows = mean.expand_as(rows), inside_rows.view(*inside_rows.shape, *[1] * (rows.dim() - 2))
        has_others = _may_have_others(inside_rows)
        normalised = torch.empty_like(rows, dtype=mean.dtype)
        for part in _parts(rows):
            there = normalised[:, part].copy_(rows[:, part]).sub_(mean[:, part]).mul_(scale)
            if has_others:
                there.mul_(inside_rows[:, part])
        return normalised.transpose(1, 2) if in_planes else normalised.unflatten(2, (width, 3)).permute(0, 3, 1, 2)

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


def _as_rows(values: Tensor, in_planes: bool) -> Tensor:
    """(N, 3, H, W) -> (N, H, 3, W), or (N, H, 3 W) where the channels are innermost in memory.

    As (W, 3) the loops of the innermost dimension would be so short as to take five times as long.
    """
    return values.transpose(1, 2) if in_planes else values.permute(0, 2, 3, 1).flatten(2)


def _may_have_others(inside_rows: Tensor) -> bool:
    """Whether some rows lie outside; on a GPU, which is not to be waited for, they may."""
    return inside_rows.device.type != "cpu" or not bool(inside_rows.all())


def _parts(rows: Tensor) -> Iterator[slice]:
    """Some of the rows (N, H, ...) at a time: on a CPU as many as stay in its cache, else all."""
    height = rows.shape[1]
    step = max(1, _IN_CACHE * height // max(rows.numel(), 1)) if rows.device.type == "cpu" else height
    return (slice(start, start + step) for start in range(0, height, step))
