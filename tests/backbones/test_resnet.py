"""ResNet against torchvision's models, against pinned numbers of timm's, and by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from detres.backbones import ResNet, conv5_stage
from detres.backbones import resnet as resnets
from detres.backbones.blocks import BasicBlock, BlockStyle, Bottleneck, PaddedIdentity

TORCHVISION_NAMES = [
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
]  # fmt: skip


def torchvision_features(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    features = {}
    for i in range(1, 5):
        x = model.get_submodule(f"layer{i}")(x)
        features[f"c{i + 1}"] = x
    return features


def torchvision_model(name: str) -> nn.Module:
    """A model of torchvision with cheaply drawn weights, and statistics that are not the identity."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    model.to_empty(device="cpu")
    for key, tensor in model.state_dict().items():
        if tensor.dim() == 4:
            tensor.uniform_(-1, 1).mul_(math.sqrt(3 / tensor[0].numel()))
        elif tensor.is_floating_point():
            tensor.uniform_(0.5, 1.0) if key.endswith(("weight", "var")) else tensor.uniform_(-0.3, 0.3)
    return model


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_torchvision_weights_load_as_they_are_and_give_its_features(name: str) -> None:
    theirs = torchvision_model(name).eval()
    with torch.device("meta"):
        ours = getattr(resnets, name)()
    state_dict = theirs.state_dict()
    assert {key for key in state_dict if key not in ours.state_dict()} == {"fc.weight", "fc.bias"}
    missing, _ = ours.load_state_dict(state_dict, strict=False, assign=True)
    assert not missing
    x = torch.randn(1, 3, 49, 70)
    with torch.no_grad():
        expected, got = torchvision_features(theirs, x), ours.eval()(x)
    assert {key: relative_error(got[key], expected[key]) for key in expected} == pytest.approx(
        dict.fromkeys(expected, 0.0), abs=1e-5
    )


@pytest.mark.parametrize("depth", [18, 50])
def test_training_is_torchvisions(depth: int) -> None:
    theirs = getattr(torchvision.models, f"resnet{depth}")()
    ours = ResNet(depth)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 64)
    expected, got = torchvision_features(theirs, x), ours(x)
    for features in (expected, got):
        sum(f.square().mean() for f in features.values()).backward()
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-5, atol=1e-5)
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(key).grad, rtol=1e-3, atol=1e-5, msg=key)
    torch.testing.assert_close(ours.bn1.running_var, theirs.bn1.running_var)


@pytest.mark.parametrize(
    ("depth", "parameters"), [(18, 11689512), (34, 21797672), (50, 25557032), (101, 44549160), (152, 60192808)]
)
def test_published_parameter_counts(depth: int, parameters: int) -> None:
    with torch.device("meta"):
        model = ResNet(depth)
    classifier = (model.feature_specs["c5"].channels + 1) * 1000
    assert sum(p.numel() for p in model.parameters()) + classifier == parameters


def fill_with_sines(model: nn.Module) -> None:
    """Weights that anybody can draw again: sin(0.7 (i + 1) n + i) for value n of the i-th tensor by name, scaled."""
    for i, (name, tensor) in enumerate(sorted(model.state_dict().items())):
        if tensor.is_floating_point():
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * (1 + i) * 0.7 + i).view(tensor.shape)
            if tensor.dim() == 4:
                tensor.copy_(wave * math.sqrt(2 / tensor[0].numel()) * 1.4)
            else:
                tensor.copy_(1 + 0.2 * wave if name.endswith(("weight", "running_var")) else 0.1 * wave)


# mean, standard deviation, value at two thirds, last but one value, maximum: computed with timm 1.0.31
TIMM = {
    18: {
        "c2": (0.132204, 0.136954, 0.288630, 0.170834, 0.526384),
        "c3": (0.165737, 0.189174, 0.422531, 0.000000, 0.907997),
        "c4": (0.092282, 0.121370, 0.085756, 0.077239, 0.672868),
        "c5": (0.098651, 0.124569, 0.395051, 0.011106, 0.789430),
    },
    50: {
        "c2": (0.151866, 0.177478, 0.488741, 0.023381, 1.084223),
        "c3": (0.207332, 0.217878, 0.127333, 0.056465, 1.322753),
        "c4": (0.319602, 0.334267, 0.844972, 0.366183, 1.893172),
        "c5": (0.285454, 0.311646, 0.082192, 0.143574, 1.634677),
    },
}


@pytest.mark.parametrize("depth", [18, 50])
def test_variant_d_is_timms_resnet_d(depth: int) -> None:
    model = ResNet(depth, deep_stem=True, avg_pool_shortcut=True).eval()
    fill_with_sines(model)
    with torch.no_grad():
        features = model(torch.sin(torch.arange(2 * 3 * 65 * 97) * 0.37).reshape(2, 3, 65, 97))
    for name, x in features.items():
        flat = x.double().flatten()
        got = (flat.mean(), flat.std(), flat[len(flat) * 2 // 3 - 1], flat[-2], flat.max())
        assert tuple(map(float, got)) == pytest.approx(TIMM[depth][name], abs=2e-5), name


def test_variant_d_bears_timms_names() -> None:
    with torch.device("meta"):
        keys = set(ResNet(50, deep_stem=True, avg_pool_shortcut=True).state_dict())
    assert {f"conv1.{i}.weight" for i in (0, 1, 3, 4, 6)} <= keys
    assert {"bn1.weight", "layer1.0.downsample.1.weight", "layer4.0.downsample.2.running_var"} <= keys


def test_stride_of_a_bottleneck() -> None:
    for stride_in_1x1, strides in ((True, ((2, 2), (1, 1))), (False, ((1, 1), (2, 2)))):
        stage = conv5_stage(50, stride_in_1x1=stride_in_1x1)
        block = stage[0]
        assert (block.conv1.stride, block.conv2.stride) == strides
        assert stage[1].conv1.stride == stage[1].conv2.stride == (1, 1)


def test_shortcuts_have_the_parameters_of_the_paper() -> None:
    def projections(shortcut: str) -> list[str]:
        with torch.device("meta"):
            model = ResNet(18, shortcut=shortcut)
        return [name for name, p in model.named_parameters() if "downsample" in name and p.dim() == 4]

    assert projections("A") == projections("none") == []
    assert projections("B") == projections("highway") == [f"layer{i}.0.downsample.0.weight" for i in (2, 3, 4)]
    assert projections("C") == [f"layer{i}.{j}.downsample.0.weight" for i in (1, 2, 3, 4) for j in (0, 1)]


def test_shortcut_a_subsamples_and_pads_with_zeros() -> None:
    x = torch.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3).float()
    y = PaddedIdentity(4, 8, stride=2)(x)
    assert y.shape == (2, 8, 3, 2)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 6:].any()


@pytest.mark.parametrize("shortcut", ["A", "B", "C", "none"])
def test_block_is_branch_plus_shortcut(shortcut: str) -> None:
    block = BasicBlock(8, 16, 2, 1, BlockStyle(shortcut=shortcut))
    x = torch.randn(2, 8, 9, 9)
    branch = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    expected = {
        "A": lambda: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)),
        "B": lambda: block.downsample(x),
        "C": lambda: block.downsample(x),
        "none": lambda: torch.zeros_like(branch),
    }[shortcut]()
    torch.testing.assert_close(block(x), (branch + expected).relu())


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_highway_block_weighs_branch_against_shortcut(block: Any, stride: int) -> None:
    channels = 8 * block.expansion
    made = block(channels, 8, stride, 1, BlockStyle(shortcut="highway"))
    x = torch.randn(2, channels, 5, 7)
    branch = made.bn2(made.conv2(made.bn1(made.conv1(x)).relu()))
    if block is Bottleneck:
        branch = made.bn3(made.conv3(branch.relu()))
    weight, bias = made.gate.weight, made.gate.bias
    share = torch.sigmoid(F.conv2d(x, weight, bias, stride))
    assert share.shape == branch.shape
    shortcut = made.downsample(x)
    assert isinstance(made.downsample, nn.Identity) == (stride == 1)
    torch.testing.assert_close(made(x), (share * branch + (1 - share) * shortcut).relu())


def test_highway_gates_begin_nearly_closed() -> None:
    model = ResNet(50, shortcut="highway", out_features=["c3"])
    gates = {name: p for name, p in model.named_parameters() if ".gate." in name}
    assert len(gates) == 2 * (3 + 4)
    assert all(torch.equal(p, torch.full_like(p, -2.0)) for name, p in gates.items() if name.endswith("bias"))
    assert sum(p.numel() for p in gates.values()) == 64 * 256 + 2 * 256**2 + 256 * 512 + 3 * 512**2 + 3 * 256 + 4 * 512


def test_zero_init_makes_every_block_the_identity() -> None:
    stage = ResNet(50, zero_init_last_norm=True).get_submodule("layer1")
    x = torch.rand(1, 256, 8, 8)
    torch.testing.assert_close(stage[1:](x), x)


def test_he_normal_by_fan_out() -> None:
    model = ResNet(18)
    weight = model.get_parameter("layer3.0.conv1.weight")  # (256, 128, 3, 3)
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.02)
    assert float(model.conv1.weight.detach().std()) == pytest.approx(math.sqrt(2 / (64 * 49)), rel=0.05)
    assert torch.equal(model.bn1.weight, torch.ones(64))


def test_dilated_c5_is_conv5_on_a_finer_grid() -> None:
    """Where the stride is in the first 1x1 conv, every second value of the dilated map is the strided map."""
    options: dict[str, Any] = {"stride_in_1x1": True, "norm": "frozen_batch"}
    strided, dilated = conv5_stage(50, **options), conv5_stage(50, dilated_c5=True, **options)
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 1024, 8, 10)
    with torch.no_grad():
        fine, coarse = dilated(x), strided(x)
    assert fine.shape == (1, 2048, 8, 10)
    torch.testing.assert_close(fine[:, :, ::2, ::2], coarse, rtol=1e-4, atol=1e-4)
    assert [block.conv2.dilation for block in dilated] == [(2, 2)] * 3


def test_dilated_c5_declares_its_stride() -> None:
    with torch.device("meta"):
        specs = ResNet(50, dilated_c5=True).feature_specs
    assert specs["c4"] == (1024, 16)
    assert specs["c5"] == (2048, 16)


def test_c4_backbone_and_conv5_head_make_the_whole_network() -> None:
    options: dict[str, Any] = {"depth": 18, "norm": "frozen_batch", "frozen_stages": 2, "out_features": ["c4"]}
    whole = ResNet(18, norm="frozen_batch")
    backbone, head = ResNet(**options), conv5_stage(**options)
    assert not hasattr(backbone, "layer4")
    backbone.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("layer4.")})
    head.load_state_dict({k[7:]: v for k, v in whole.state_dict().items() if k.startswith("layer4.")})
    assert (head.in_channels, head.out_channels) == (256, 512)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(head(backbone(x)["c4"]), whole(x)["c5"])


def test_conv5_head_without_regions() -> None:
    head = conv5_stage(50, norm="frozen_batch")
    pooled = torch.zeros(0, 1024, 14, 14, requires_grad=True)
    out = head(pooled)
    assert out.shape == (0, 2048, 7, 7)
    out.sum().backward()
    assert head.get_parameter("0.conv1.weight").grad is not None


def test_norm_eps_reaches_every_norm() -> None:
    model = ResNet(50, norm="frozen_batch", norm_eps=0.0, deep_stem=True)
    assert {m.eps for m in model.modules() if hasattr(m, "eps")} == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth: got 20, expected one of 18, 34, 50, 101, 152"),
        ({"shortcut": "D"}, "shortcut: got 'D', expected one of A, B, C, none, highway"),
        ({"norm": "layer"}, "norm: got 'layer'"),
        ({"depth": 18, "groups": 32}, "belong to bottleneck blocks"),
        ({"depth": 34, "stride_in_1x1": True}, "belong to bottleneck blocks"),
        ({"frozen_stages": 6}, "frozen_stages: got 6"),
        ({"frozen_stages": -1}, "frozen_stages: got -1"),
        ({"out_features": []}, r"out_features: got \[\], expected at least one of c2, c3, c4, c5"),
        ({"out_features": ["c4", "c4"]}, "each at most once"),
        ({"out_features": ["res4"]}, r"got \['res4'\]"),
        ({"zero_init_last_norm": True, "norm": "frozen_batch"}, "zero_init_last_norm: norm 'frozen_batch'"),
        ({"zero_init_last_norm": True, "shortcut": "none"}, "zero_init_last_norm: a plain net"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        ResNet(**options)
