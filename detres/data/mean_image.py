"""The mean of a training set's images, pixel by pixel (ResNet paper, section 3.4).

Shapes: N images in a batch, S side of the images.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from detres.data.annotations import DatasetError
from detres.structures import Batch


def mean_image(batches: Iterable[Batch], side: int, progress: Callable[[int], None] | None = None) -> Tensor:
    """The mean (3, S, S) float32, RGB and 0..255, of all images in `batches`, which must be `side` pixels square.

    `progress` is called with the number of images done. Raises DatasetError for images of another size, and for none.
    """
    total, count = torch.zeros(3, side, side, dtype=torch.float64), 0
    for batch in batches:
        height, width = batch.images.pixels.shape[-2:]
        if (height, width) != (side, side):
            raise DatasetError(
                f"model.pixels.per_pixel_mean is {side}, but data.eval_transforms give images of {height}x{width}; "
                "crop or resize them to one square size (and set model.pixels.size_divisibility to 1, lest it pads "
                "them), or set per_pixel_mean to null for a mean per channel"
            )
        total += batch.images.pixels.sum(dim=0, dtype=torch.float64)
        count += len(batch)
        if progress is not None:
            progress(count)
    if not count:
        raise DatasetError("the mean of the training images: there is no image")
    return (total / count).float()
