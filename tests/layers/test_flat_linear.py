"""The fully connected layer after maps, against nn.Flatten and nn.Linear."""

import torch
from torch import nn

from detres.layers.flat_linear import FlatLinear


def test_equals_flatten_and_linear_as_convolution_too() -> None:
    torch.manual_seed(0)
    layer, plain = FlatLinear(3, 2, 5), nn.Linear(12, 5)
    plain.load_state_dict(layer.state_dict())
    maps = torch.randn(4, 3, 2, 2)
    expected = plain(maps.flatten(1))
    assert torch.equal(layer(maps), expected)
    assert torch.equal(layer(maps.contiguous(memory_format=torch.channels_last)), expected)
    layer.become_convolution()
    layer.to(memory_format=torch.channels_last)
    assert layer.weight.shape == (5, 3, 2, 2)
    torch.testing.assert_close(layer(maps.contiguous(memory_format=torch.channels_last)), expected)
    assert layer(maps[:0]).shape == (0, 5)
