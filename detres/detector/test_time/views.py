"""Views: the sizes at which a system sees an image, and its mirror image.

Shapes: N images; h, w height and width of one of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detres.structures import Detections, ImageBatch

Transform = Callable[[Tensor], Tensor]
"""An image (3, h, w) uint8 on the CPU as a network is to see it: resized, mostly. The data pipeline provides it."""


@dataclass(frozen=True)
class View:
    """What `transform` makes of each image, and then, with `flip`, its mirror image."""

    transform: Transform
    flip: bool = False

    def at(self, transform: Transform) -> "View":
        """The same view, mirrored or not, at the size of another transform."""
        return replace(self, transform=transform)

    def show(self, images: ImageBatch) -> list[Tensor]:
        """The N images of a batch without their padding, as this view shows them; on the CPU."""
        pixels = images.pixels.cpu()
        cut = [pixels[i, :, :height, :width] for i, (height, width) in enumerate(images.sizes_hw.tolist())]
        shown = [self.transform(image) for image in cut]
        return [image.flip(-1) for image in shown] if self.flip else shown

    def back(self, detections: Sequence[Detections], seen: ImageBatch) -> list[Detections]:
        """Detections in images that this view showed, in pixels of those that it was made of."""
        return [_mirrored(each) if self.flip else each for each in seen.to_original(detections)]


def batch_of(shown: Sequence[Tensor], images: ImageBatch, size_divisibility: int) -> ImageBatch:
    """Views of `images` as a batch on their device; its original sizes are those of `images`."""
    sizes: list[tuple[int, int]] = [(height, width) for height, width in images.sizes_hw.tolist()]
    batch = ImageBatch.from_images(shown, sizes, size_divisibility, images.sampling_seeds.tolist())
    return batch.to(images.pixels.device)


def one_image(images: ImageBatch, index: int) -> ImageBatch:
    """The image number `index` alone, its padding kept."""
    here = slice(index, index + 1)
    return ImageBatch(
        images.pixels[here], images.sizes_hw[here], images.original_sizes_hw[here], images.sampling_seeds[here]
    )


def _mirrored(found: Detections) -> Detections:
    width = found.image_size_hw[1]
    x1, y1, x2, y2 = found.boxes_xyxy.unbind(1)
    return replace(found, boxes_xyxy=torch.stack([width - x2, y1, width - x1, y2], dim=1))
