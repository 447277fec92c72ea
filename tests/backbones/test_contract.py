"""What every backbone keeps: maps as declared, at any input size, and gradients for all that is not frozen."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from detres.backbones import FPN, VGG, Backbone, BackboneWithFPN, CifarResNet, ResNet
from detres.backbones import resnet as resnets


def with_fpn(body: Any, **options: Any) -> BackboneWithFPN:
    return BackboneWithFPN(body, FPN(body.feature_specs, 32, **options))


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnets.resnet18,
    "resnet34": resnets.resnet34,
    "resnet50": resnets.resnet50,
    "resnet101": lambda: resnets.resnet101(norm="frozen_batch", frozen_stages=3),
    "resnet152": lambda: resnets.resnet152(norm="frozen_batch", frozen_stages=4),
    "resnext50": resnets.resnext50_32x4d,
    "resnext101": lambda: resnets.resnext101_32x8d(norm="frozen_batch", frozen_stages=4),
    "wide_resnet50": resnets.wide_resnet50_2,
    "shortcut_a": lambda: ResNet(18, shortcut="A"),
    "shortcut_a_bottleneck": lambda: ResNet(50, shortcut="A"),
    "shortcut_c": lambda: ResNet(18, shortcut="C"),
    "plain": lambda: ResNet(34, shortcut="none"),
    "highway": lambda: ResNet(18, shortcut="highway"),
    "highway_bottleneck": lambda: ResNet(50, shortcut="highway", norm="frozen_batch"),
    "checkpointed": lambda: ResNet(34, checkpoint_activations=True, frozen_stages=2),
    "stride_in_1x1": lambda: ResNet(50, stride_in_1x1=True, norm="frozen_batch"),
    "resnet50d": lambda: ResNet(50, deep_stem=True, avg_pool_shortcut=True),
    "group_norm": lambda: ResNet(50, norm="group"),
    "sync_norm": lambda: ResNet(18, norm="sync_batch"),
    "no_norm": lambda: ResNet(18, norm="none"),
    "stem_frozen": lambda: ResNet(18, frozen_stages=1, deep_stem=True),
    "all_but_c5_frozen": lambda: ResNet(18, frozen_stages=4),
    "c4": lambda: ResNet(50, out_features=["c4"]),
    "dilated_c5": lambda: ResNet(50, dilated_c5=True, out_features=["c5"]),
    "dilated_d": lambda: ResNet(50, dilated_c5=True, avg_pool_shortcut=True),
    "cifar_resnet20": CifarResNet,
    "cifar_plain": lambda: CifarResNet(14, shortcut="none", out_features=["c2"]),
    "cifar_frozen": lambda: CifarResNet(32, frozen_stages=2, norm="group"),
    "vgg16": VGG,
    "vgg11_norm": lambda: VGG(11, norm="batch", frozen_stages=2, out_features=["c2", "c3", "c4", "c5"]),
    "vgg19_c4": lambda: VGG(19, norm="group", frozen_stages=1, out_features=["c4"]),
    "fpn": lambda: with_fpn(ResNet(18)),
    "fpn_norm": lambda: with_fpn(ResNet(18), norm="batch"),
    "fpn_frozen": lambda: with_fpn(ResNet(18, norm="frozen_batch", frozen_stages=5), norm="frozen_batch"),
    "fpn_conv": lambda: with_fpn(ResNet(18, out_features=["c3", "c4", "c5"]), top="conv"),
    "fpn_no_top": lambda: with_fpn(ResNet(18), top="none"),
    "fpn_vgg": lambda: with_fpn(VGG(11, out_features=["c2", "c3", "c4", "c5"])),
}


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Any:
    return BACKBONES[request.param]()


def test_maps_are_as_declared_and_gradients_reach_what_learns(backbone: Any) -> None:
    assert isinstance(backbone, Backbone)
    strides = [spec.stride for spec in backbone.feature_specs.values()]
    assert strides == sorted(strides)

    backbone.eval()
    with torch.no_grad():
        for num_images, height, width in [(0, 32, 64), (1, 33, 79)]:
            check_maps(backbone, num_images, height, width)
    backbone.train()
    check_gradients(backbone, check_maps(backbone, 2, 49, 65))


def check_maps(backbone: Any, num_images: int, height: int, width: int) -> dict[str, torch.Tensor]:
    features = backbone(torch.randn(num_images, 3, height, width))
    assert list(features) == list(backbone.feature_specs)
    for name, (channels, stride) in backbone.feature_specs.items():
        assert features[name].shape[:2] == (num_images, channels), name
        for got, pixels in zip(features[name].shape[2:], (height, width), strict=True):
            assert pixels // stride <= got <= math.ceil(pixels / stride), f"{name}: {got} for {pixels} pixels"
    return features


def check_gradients(backbone: nn.Module, features: dict[str, torch.Tensor]) -> None:
    assert all(x.isfinite().all() for x in features.values())
    sum((x * torch.randn_like(x)).sum() for x in features.values()).backward()
    for name, parameter in backbone.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if parameter.dim() > 1:  # a bias before a batch norm has none, truly
            assert parameter.grad.abs().max() > 0, name


def test_frozen_parts_are_told_by_the_stages() -> None:
    prefixes = {
        "all_but_c5_frozen": ("conv1.", "bn1.", "layer1.", "layer2.", "layer3."),
        "stem_frozen": ("conv1.", "bn1."),
        "vgg11_norm": ("features.0.", "features.1.", "features.4.", "features.5."),
        "vgg19_c4": tuple(f"features.{i}." for i in (0, 1, 3, 4)),
        "resnet50": (),
    }
    for case, frozen in prefixes.items():
        for name, parameter in BACKBONES[case]().named_parameters():
            assert parameter.requires_grad != name.startswith(frozen), f"{case}: {name}"


@pytest.mark.parametrize("case", ["all_but_c5_frozen", "vgg11_norm"])
def test_frozen_stages_do_not_change_in_training(case: str) -> None:
    backbone = BACKBONES[case]().train()
    frozen = {name.rsplit(".", 1)[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))
    changed = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed, "the other batch norms collect statistics"
    assert not {name for name in changed if name.rsplit(".", 1)[0] in frozen}


def test_compiles_as_one_graph() -> None:
    backbone = BACKBONES["fpn_frozen"]().eval()
    pixels = torch.randn(1, 3, 64, 96)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(pixels), backbone(pixels))
