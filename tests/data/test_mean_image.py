"""The mean of the training images, pixel by pixel."""

import pytest
import torch

from detres.data.annotations import DatasetError
from detres.data.mean_image import mean_image
from detres.structures import Batch, ImageBatch


def batch(*images: torch.Tensor) -> Batch:
    names = [str(i) for i in range(len(images))]
    return Batch(ImageBatch.from_images(list(images), size_divisibility=1), torch.zeros(len(images)), names, names)


def test_no_image() -> None:
    with pytest.raises(DatasetError, match="there is no image"):
        mean_image([], 4)


def test_the_mean_over_batches_of_unequal_size() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    done: list[int] = []
    got = mean_image([batch(*images[:3]), batch(*images[3:])], 4, done.append)
    torch.testing.assert_close(got, images.float().mean(dim=0))
    assert done == [3, 5]


def test_images_of_another_size() -> None:
    with pytest.raises(DatasetError, match=r"per_pixel_mean is 4, but data.eval_transforms give images of 5x6"):
        mean_image([batch(torch.zeros(3, 5, 6, dtype=torch.uint8))], 4)
