"""FPN against torchvision's, and by hand."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from detres.backbones import FPN, BackboneWithFPN, FeatureSpec, ResNet

SPECS = {"c2": FeatureSpec(8, 4), "c3": FeatureSpec(16, 8), "c4": FeatureSpec(24, 16), "c5": FeatureSpec(40, 32)}


def random_features(num_images: int, height: int, width: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(num_images, channels, -(-height // stride), -(-width // stride))
        for name, (channels, stride) in SPECS.items()
    }


def test_no_images() -> None:
    pyramid = FPN(SPECS, 32)(random_features(0, 64, 64))
    assert {name: tuple(x.shape) for name, x in pyramid.items()} == {
        "p2": (0, 32, 16, 16), "p3": (0, 32, 8, 8), "p4": (0, 32, 4, 4), "p5": (0, 32, 2, 2), "p6": (0, 32, 1, 1),
    }  # fmt: skip


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("top", ["none", "maxpool", "conv"])
@pytest.mark.parametrize("size_hw", [(128, 192), (101, 77), (33, 250)])
def test_torchvision_weights_load_as_they_are_and_give_its_maps(norm: str, top: str, size_hw: tuple[int, int]) -> None:
    extra = {"none": None, "maxpool": LastLevelMaxPool(), "conv": LastLevelP6P7(40, 32)}[top]
    norm_layer = nn.BatchNorm2d if norm == "batch" else None
    theirs = FeaturePyramidNetwork([8, 16, 24, 40], 32, extra_blocks=extra, norm_layer=norm_layer)
    for name, tensor in theirs.state_dict().items():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5) if name.endswith(("weight", "var")) else tensor.normal_()
    ours = FPN(SPECS, 32, norm=norm, top=top)
    ours.load_state_dict(theirs.state_dict())
    features = random_features(2, *size_hw)
    expected = list(theirs.eval()(features).values())
    got = ours.eval()(features)
    assert list(got) == [f"p{level}" for level in range(2, 2 + len(expected))]
    torch.testing.assert_close(list(got.values()), expected, rtol=1e-4, atol=1e-5)


def test_the_backbones_maps_are_left_as_they_are() -> None:
    features = random_features(1, 64, 64)
    copies = {name: x.clone() for name, x in features.items()}
    FPN(SPECS, 32)(features)
    assert all(torch.equal(features[name], copies[name]) for name in features)


def test_odd_sizes_take_the_nearest_coarse_value() -> None:
    fpn = FPN({"c3": FeatureSpec(1, 8), "c4": FeatureSpec(1, 16)}, 1, top="none")
    for block in (*fpn.inner_blocks, *fpn.layer_blocks):
        nn.init.dirac_(block[0].weight)
    c3, c4 = torch.zeros(1, 1, 1, 5), torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert fpn({"c3": c3, "c4": c4})["p3"].tolist() == [[[[1.0, 1.0, 2.0, 2.0, 3.0]]]]


def test_convolutions_have_a_bias_only_without_norm() -> None:
    for norm, has_bias in (("none", True), ("group", False)):
        fpn = FPN(SPECS, 32, norm=norm)
        assert {(m.bias is not None) for m in fpn.modules() if isinstance(m, nn.Conv2d)} == {has_bias}
    assert set(FPN(SPECS, 32).state_dict()) == {
        f"{kind}_blocks.{i}.0.{what}" for kind in ("inner", "layer") for i in range(4) for what in ("weight", "bias")
    }


def test_initial_weights_are_torchvisions() -> None:
    fpn = FPN(SPECS, 256)
    weight = fpn.layer_blocks[0][0].weight.detach()  # uniform within sqrt(3 / fan_in)
    assert float(weight.abs().max()) == pytest.approx((3 / (256 * 9)) ** 0.5, rel=1e-3)
    assert not fpn.layer_blocks[0][0].bias.any()


def test_with_a_body() -> None:
    body = ResNet(18, out_features=["c3", "c4", "c5"])
    model = BackboneWithFPN(body, FPN(body.feature_specs, 64, top="conv"))
    assert model.feature_specs == {f"p{level}": (64, 2**level) for level in range(3, 8)}
    assert {name.split(".")[0] for name in model.state_dict()} == {"body", "fpn"}
    assert "fpn.extra_blocks.p6.weight" in model.state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_specs": {}}, "found none"),
        ({"in_specs": {"c4": (8, 16), "c5": (8, 16)}}, "found c4: 16, c5: 16.*no dilated_c5"),
        ({"in_specs": {"c2": (8, 4), "c4": (8, 16)}}, "each twice the one before"),
        ({"in_specs": {"a": (8, 6)}}, "powers of two"),
        ({"in_specs": SPECS, "top": "p6"}, "top: got 'p6', expected maxpool, conv or none"),
        ({"in_specs": SPECS, "norm": "layer"}, "norm: got 'layer'"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    specs = {name: FeatureSpec(*spec) for name, spec in arguments.pop("in_specs").items()}
    with pytest.raises(ValueError, match=message):
        FPN(specs, **arguments)
