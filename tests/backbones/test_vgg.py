"""VGG against torchvision's models."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from detres.backbones import VGG


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_torchvision_weights_load_as_they_are_and_give_its_features(depth: int, norm: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"vgg{depth}" + ("_bn" if norm == "batch" else ""))().features
        ours = VGG(depth, norm=norm, out_features=["c2", "c3", "c4", "c5"])
    theirs.to_empty(device="cpu")
    for layer in theirs:
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            layer.reset_parameters()
    ours.load_state_dict({f"features.{key}": value for key, value in theirs.state_dict().items()}, assign=True)

    x = torch.randn(1, 3, 50, 70)
    expected, values = [], x
    with torch.no_grad():
        for layer in theirs.eval():
            if isinstance(layer, nn.MaxPool2d):
                expected.append(values)
            values = layer(values)
        got = ours.eval()(x)
    for name, feature in zip(got, expected[1:], strict=True):
        torch.testing.assert_close(got[name], feature, msg=name)


def test_conv5_has_stride_16_and_no_pool() -> None:
    assert VGG().feature_specs == {"c5": (512, 16)}
    assert VGG()(torch.randn(1, 3, 64, 48))["c5"].shape == (1, 512, 4, 3)


def test_stages_after_the_last_feature_are_not_made() -> None:
    convs = [m for m in VGG(16, out_features=["c3"]).modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 2 + 2 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 12}, "depth: got 12, expected one of 11, 13, 16, 19"),
        ({"norm": "layer"}, "norm: got 'layer'"),
        ({"frozen_stages": 7}, "frozen_stages: got 7"),
        ({"out_features": ["c1"]}, r"out_features: got \['c1'\]"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGG(**options)
