"""The largest batch that a data set and its transforms can make, without reading an image."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detres.data.transforms import DetectionTransforms
from detres.structures import Batch, GroundTruth, ImageBatch

_DRAWS = 32  # with as many seeds, what transforms choose at random has been near its largest


def largest_size_hw(sizes_hw: np.ndarray, transforms: DetectionTransforms) -> tuple[int, int]:
    """The greatest height and the greatest width of what the transforms make of images of `sizes_hw` (N, 2).

    Blank images of the extremes are tried: highest, widest, largest, most upright, flattest. A batch can hold both,
    and is padded to both. Raises ValueError without images.
    """
    if len(sizes_hw) == 0:
        raise ValueError("the training set is empty: it has no largest image")
    height, width = np.asarray(sizes_hw, dtype=np.float64).T
    extremes = {int(np.argmax(values)) for values in (height, width, height * width, height / width, width / height)}
    made, nothing = [], np.zeros(0)
    for index in sorted(extremes):
        blank = np.zeros((*(int(side) for side in sizes_hw[index]), 3), dtype=np.uint8)
        for seed in range(_DRAWS):
            made.append(transforms(blank, nothing, nothing, nothing, seed).image.shape[:2])
    return max(size[0] for size in made), max(size[1] for size in made)


def full_batch(
    num_images: int, size_hw: Sequence[int], size_divisibility: int, num_classes: int, num_objects: int | None
) -> Batch:
    """`num_images` times one image of noise, with `num_objects` boxes in each; None: labels of whole images."""
    generator = torch.Generator().manual_seed(0)
    height, width = size_hw
    images = ImageBatch.from_images(
        [torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)] * num_images,
        size_divisibility=size_divisibility,
    )
    shape = (num_images,) if num_objects is None else (num_images, num_objects)
    labels = torch.randint(num_classes, shape, generator=generator)
    targets: GroundTruth | Tensor = labels
    if num_objects is not None:
        corners = torch.rand(num_images, num_objects, 2, 2, generator=generator).sort(dim=2).values
        boxes = (corners * torch.tensor([float(width), float(height)])).flatten(2)
        targets = GroundTruth.from_lists(list(boxes), list(labels))
    return Batch(images, targets, list(range(num_images)), ["(noise)"] * num_images)
