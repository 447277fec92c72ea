"""detres.layers.folding: the same maps with fewer layers."""

import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from detres.backbones import FPN, VGG, BackboneWithFPN, CifarResNet, ResNet
from detres.detector.box_head import ConvFCHead
from detres.jobs.benchmark.twins import randomise
from detres.layers.folding import fold_norms
from detres.layers.norm import ConvNorm, FrozenBatchNorm2d, SyncBatchNorm


def test_nothing_to_fold() -> None:
    assert fold_norms(nn.Sequential()) == 0
    assert fold_norms(nn.Conv2d(1, 1, 1)) == 0


def test_by_hand() -> None:
    """Scale 6 / sqrt(4) = 3 and shift 5 - 3 * 2 = -1: weight 7 becomes 21, bias 1 becomes 1 * 3 - 1 = 2."""
    layers = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0)).eval()
    conv, norm = layers
    for tensor, value in ((conv.weight, 7), (conv.bias, 1), (norm.weight, 6), (norm.bias, 5)):
        nn.init.constant_(tensor, value)
    norm.running_mean.fill_(2)
    norm.running_var.fill_(4)
    assert fold_norms(layers) == 1
    assert (layers[0].weight.item(), layers[0].bias.item()) == (21, 2) and isinstance(layers[1], nn.Identity)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, FrozenBatchNorm2d, TorchvisionFrozenBatchNorm2d]
)
@pytest.mark.parametrize("bias", [True, False])
def test_every_fixed_norm(norm: type[nn.Module], bias: bool) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, bias=bias), norm(8), nn.ReLU()).eval()
    randomise(layers)
    x = torch.randn(2, 3, 9, 7)
    expected = layers(x)
    assert fold_norms(layers) == 1
    torch.testing.assert_close(layers(x), expected, rtol=1e-5, atol=1e-5)


class _ActivatedNorm(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def test_what_is_no_fixed_norm_after_a_convolution_stays() -> None:
    kept = [
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)),
        nn.Sequential(nn.Conv2d(3, 8, 1), _ActivatedNorm(8)),
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)),
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)),
        nn.ModuleList([nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)]),
    ]
    for layers in kept:
        before = layers.state_dict()
        assert fold_norms(layers.eval()) == 0
        assert list(layers.state_dict()) == list(before)


NETWORKS = {
    "resnet18": (lambda: ResNet(18), 20),
    "resnet50": (lambda: ResNet(50, norm="frozen_batch"), 53),
    "resnext": (lambda: ResNet(50, groups=32, width_per_group=4, out_features=["c3"]), 24),
    "deep stem, averaged shortcuts": (lambda: ResNet(50, deep_stem=True, avg_pool_shortcut=True), 55),
    "highway": (lambda: ResNet(18, shortcut="highway"), 20),
    "plain": (lambda: ResNet(18, shortcut="none"), 17),
    "cifar": (lambda: CifarResNet(20), 19),
    "vgg": (lambda: VGG(11, norm="batch"), 8),
    "pyramid": (lambda: _pyramid("batch"), 20 + 8),
    "group norms": (lambda: _pyramid("group"), 20),
    "head": (lambda: ConvFCHead(3, 64, num_convs=2, conv_channels=4, channels=8), 2),
    "pool, convolution, norm": (lambda: ConvNorm(nn.AvgPool2d(2), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), 1),
}


def _pyramid(norm: str) -> nn.Module:
    body = ResNet(18)
    return BackboneWithFPN(body, FPN(body.feature_specs, 16, norm=norm))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_the_same_maps(name: str) -> None:
    make, count = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    randomise(network)
    x = torch.randn(1, 3, 64, 64)
    expected = network(x)
    assert fold_norms(network) == count
    found = network(x)
    pairs = (
        [(found, expected)] if isinstance(found, torch.Tensor) else zip(found.values(), expected.values(), strict=True)
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
