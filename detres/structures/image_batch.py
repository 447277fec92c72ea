"""ImageBatch: images of unequal sizes in one padded tensor.

Shapes: N images, H and W the padded height and width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detres.structures.detections import Detections


@dataclass(frozen=True)
class ImageBatch:
    """Images as they come from the data pipeline, resized already, not yet normalised.

    pixels             (N, 3, H, W) uint8 or float in [0, 255], RGB, zero-padded at the right and the bottom; in memory
                       the channels are innermost (torch.channels_last) where they were in the images
    sizes_hw           (N, 2) int64, the height and width of each image inside the padding
    original_sizes_hw  (N, 2) int64, the sizes before resizing: where detections are mapped back to
    sampling_seeds     (N,) int64, keys of the random sampling inside the model (training only)
    """

    pixels: Tensor
    sizes_hw: Tensor
    original_sizes_hw: Tensor
    sampling_seeds: Tensor

    @classmethod
    def from_images(
        cls,
        images: Sequence[Tensor],
        original_sizes_hw: Sequence[tuple[int, int]] | None = None,
        size_divisibility: int = 32,
        sampling_seeds: Sequence[int] | None = None,
        shared: bool = False,
    ) -> "ImageBatch":
        """Pad images (3, h, w) of one dtype to the largest height and width, rounded up to `size_divisibility`.

        `size_divisibility` 0 or 1 adds nothing beyond the largest image. `shared`: into memory that another process
        can take over without a copy (images on the CPU). Raises ValueError without images.
        """
        if not images:
            raise ValueError("an ImageBatch needs at least one image, got an empty list")
        sizes = torch.tensor([[image.shape[-2], image.shape[-1]] for image in images])
        step = max(size_divisibility, 1)
        height, width = (-(-int(side) // step) * step for side in sizes.amax(dim=0))
        return cls(
            _padded(images, height, width, shared),
            sizes,
            sizes if original_sizes_hw is None else torch.tensor(original_sizes_hw).reshape(-1, 2),
            torch.tensor(sampling_seeds if sampling_seeds is not None else range(len(images)), dtype=torch.int64),
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "ImageBatch":
        """The same batch on another device."""
        return ImageBatch(*(getattr(self, name).to(device, non_blocking=non_blocking) for name in _FIELDS))

    def pin_memory(self) -> "ImageBatch":
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        return ImageBatch(*(getattr(self, name).pin_memory() for name in _FIELDS))

    def tensors(self) -> list[Tensor]:
        """All tensors of it."""
        return [getattr(self, name) for name in _FIELDS]

    def to_original(self, detections: Sequence[Detections]) -> list[Detections]:
        """Detections found in these images (one entry per image), in pixels of the original images."""
        mapped = []
        for found, size, original in zip(
            detections, self.sizes_hw.tolist(), self.original_sizes_hw.tolist(), strict=True
        ):
            x, y = original[1] / size[1], original[0] / size[0]
            boxes = found.boxes_xyxy * found.boxes_xyxy.new_tensor([x, y, x, y])
            mapped.append(replace(found, boxes_xyxy=boxes, image_size_hw=tuple(original)))
        return mapped


def _padded(images: Sequence[Tensor], height: int, width: int, shared: bool) -> Tensor:
    """The images (3, h, w) in one tensor (N, 3, height, width) of the layout of the first; every byte written once."""
    if images[0].stride(0) == 1:  # decoded and resized images: pixel after pixel, row after row
        pixels = _empty(images[0], (len(images), height, width, 3), shared).permute(0, 3, 1, 2)
    else:
        pixels = _empty(images[0], (len(images), 3, height, width), shared)
    for slot, image in zip(pixels, images, strict=True):
        h, w = image.shape[-2:]
        slot[:, :h, :w] = image
        slot[:, h:] = 0
        slot[:, :h, w:] = 0
    return pixels


def _empty(like: Tensor, shape: tuple[int, ...], shared: bool) -> Tensor:
    """A tensor of that shape and of the dtype and device of `like`, not filled."""
    if not shared:
        return like.new_empty(shape)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * like.element_size(), device="cpu")
    return like.new_empty(0).set_(storage, 0, shape)  # type: ignore[call-overload]


_FIELDS = ("pixels", "sizes_hw", "original_sizes_hw", "sampling_seeds")
