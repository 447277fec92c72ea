"""The 32x32 family: sizes of the paper's networks, layers counted, shortcuts, wrong depths."""

import pytest
import torch
from torch import nn

from detres.backbones import CifarResNet, FeatureSpec


def num_parameters(depth: int, shortcut: str) -> int:
    """With the paper's 10-way layer on top."""
    with torch.device("meta"):
        backbone = CifarResNet(depth, shortcut=shortcut)
    return sum(p.numel() for p in backbone.parameters()) + 64 * 10 + 10


def hand_count(n: int) -> int:
    """Convolutions and two numbers per normed channel, with 2n layers each of 16, 32 and 64 channels."""
    total = 3 * 16 * 9 + 2 * 16
    for i, (before, width) in enumerate([(16, 16), (16, 32), (32, 64)]):
        first = before if i else 16
        total += 9 * first * width + (2 * n - 1) * 9 * width * width + 2 * n * 2 * width
    return total + 650


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7), (1202, 19.4)]
)
def test_sizes_are_the_papers(depth: int, millions: float) -> None:
    count = num_parameters(depth, "A")
    assert count == num_parameters(depth, "none") == hand_count((depth - 2) // 6)
    assert round(count / 1e6, 1 if millions > 1 else 2) == millions


@pytest.mark.parametrize("depth", [8, 20, 110])
def test_depth_counts_the_weighted_layers(depth: int) -> None:
    with torch.device("meta"):
        backbone = CifarResNet(depth)
    assert sum(isinstance(m, nn.Conv2d) for m in backbone.modules()) + 1 == depth
    assert backbone.feature_specs == {"c0": FeatureSpec(16, 1), "c1": FeatureSpec(32, 2), "c2": FeatureSpec(64, 4)}


def test_he_initialisation_by_fan_out() -> None:
    stage = CifarResNet(110).stages()[2]
    for block in list(stage)[1:]:
        assert block.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_projections_cost_parameters_and_identity_does_not() -> None:
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert num_parameters(20, "B") - num_parameters(20, "A") == projections


@pytest.mark.parametrize("depth", [2, 18, 21, 51])
def test_a_depth_that_is_not_6n_plus_2(depth: int) -> None:
    with pytest.raises(ValueError, match=f"got {depth}, expected 6n"):
        CifarResNet(depth)
