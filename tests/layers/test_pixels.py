"""Pixel normalisation: values, channel order, padding."""

import pytest
import torch

from detres.layers.pixels import PixelNormalizer
from detres.structures import ImageBatch


def batch() -> ImageBatch:
    bright = torch.tensor([10.0, 20.0, 30.0]).reshape(3, 1, 1).expand(3, 2, 3).to(torch.uint8)
    return ImageBatch.from_images([bright, bright[:, :1, :2]], size_divisibility=4)


def test_rgb_values_and_zero_padding() -> None:
    got = PixelNormalizer(mean=(1, 2, 3), std=(9, 9, 9))(batch())
    assert got.shape == (2, 3, 4, 4) and got.dtype == torch.float32
    assert got[0, :, 1, 2].tolist() == [1.0, 2.0, 3.0]
    inside = torch.zeros(2, 4, 4, dtype=torch.bool)
    inside[0, :2, :3] = inside[1, :1, :2] = True
    assert (got.abs().sum(1)[~inside] == 0).all() and (got.abs().sum(1)[inside] > 0).all()


def test_bgr_reverses_the_channels_before_the_mean() -> None:
    got = PixelNormalizer(mean=(30, 20, 10), std=(1, 1, 1), channel_order="bgr")(batch())
    assert got.abs().sum() == 0
    got = PixelNormalizer(mean=(0, 0, 0), std=(1, 1, 1), channel_order="bgr")(batch())
    assert got[0, :, 0, 0].tolist() == [30.0, 20.0, 10.0]


def test_the_batch_stays_as_it_was() -> None:
    pixels = torch.full((1, 3, 2, 2), 7.0)  # float32 already: nothing is converted
    images = ImageBatch.from_images(list(pixels), size_divisibility=1)
    PixelNormalizer()(images)
    assert (images.pixels == 7).all()


def test_its_numbers_are_settings_not_weights() -> None:
    assert PixelNormalizer().state_dict() == {}


def test_unknown_channel_order() -> None:
    with pytest.raises(ValueError, match="rgb"):
        PixelNormalizer(channel_order="yuv")


def test_a_mean_for_every_pixel_is_part_of_the_state() -> None:
    mean = torch.arange(12.0).reshape(3, 2, 2)
    normalize = PixelNormalizer(std=(2, 2, 2), per_pixel_mean=2)
    normalize.set_mean_image(mean)
    again = PixelNormalizer(std=(2, 2, 2), per_pixel_mean=2)
    again.load_state_dict(normalize.state_dict())
    images = ImageBatch.from_images([torch.full((3, 2, 2), 20, dtype=torch.uint8)], size_divisibility=1)
    torch.testing.assert_close(again(images)[0], (20 - mean) / 2)


def test_images_of_another_size_get_the_mean_over_all_positions() -> None:
    normalize = PixelNormalizer(std=(1, 1, 1), channel_order="bgr", per_pixel_mean=2)
    normalize.set_mean_image(torch.arange(12.0).reshape(3, 2, 2))
    images = ImageBatch.from_images([torch.full((3, 1, 3), 20, dtype=torch.uint8)], size_divisibility=1)
    assert normalize(images)[0, :, 0, 1].tolist() == [10.5, 14.5, 18.5]  # blue first


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("side", [None, 40])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channels_innermost_and_bytes_change_nothing(order: str, side: int | None, dtype: torch.dtype) -> None:
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in [(40, 33), (21, 40)]]
    normalize = PixelNormalizer(channel_order=order, per_pixel_mean=side)
    if side is not None:
        normalize.set_mean_image(torch.rand(3, side, side) * 255)
    plain = normalize(ImageBatch.from_images([image.float() for image in images], size_divisibility=1))
    innermost = [image.to(dtype).permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]
    got = normalize(ImageBatch.from_images(innermost, size_divisibility=1))
    assert got.is_contiguous(memory_format=torch.channels_last) and torch.equal(got, plain)
    expected = images[1].float() if order == "rgb" else images[1].float().flip(0)
    mean = normalize.mean[0] if normalize.mean_image is None else normalize.mean_image[:, :21, :40]
    torch.testing.assert_close(got[1, :, :21, :40], (expected - mean) / normalize.std[0])
