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


def test_its_numbers_are_settings_not_weights() -> None:
    assert PixelNormalizer().state_dict() == {}


def test_unknown_channel_order() -> None:
    with pytest.raises(ValueError, match="rgb"):
        PixelNormalizer(channel_order="yuv")
