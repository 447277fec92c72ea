"""Residual blocks and their shortcuts (ResNet paper, section 3 and figure 5).

Shapes: N images, C channels, H x W positions; a stage of stride s maps (N, C_in, H, W) to (N, C, H/s, W/s).
Parameter names are torchvision's.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from detres.layers.norm import ConvNorm, conv_norm, conv_norm_relu, make_norm

SHORTCUTS = ("A", "B", "C", "none", "highway")


class BlockStyle(NamedTuple):
    """What all blocks of a network have in common; meanings as in detres.backbones.resnet.ResNet."""

    shortcut: str = "B"
    stride_in_1x1: bool = False
    groups: int = 1
    width_per_group: int = 64
    avg_pool_shortcut: bool = False
    norm: str = "batch"
    norm_eps: float = 1e-5
    zero_init_last_norm: bool = False
    checkpoint_activations: bool = False

    def check(self) -> "BlockStyle":
        """The style itself; ValueError when its settings are unknown or contradict each other."""
        if self.shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut: got {self.shortcut!r}, expected one of {', '.join(SHORTCUTS)}")
        if self.zero_init_last_norm and self.norm in ("frozen_batch", "none"):
            raise ValueError(
                f"zero_init_last_norm: norm {self.norm!r} has no weight that could learn to leave zero; "
                "use batch, sync_batch or group, or set zero_init_last_norm to false"
            )
        if self.zero_init_last_norm and self.shortcut == "none":
            raise ValueError("zero_init_last_norm: a plain net (shortcut: none) would start at zero everywhere")
        return self

    def conv(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
        """A convolution that keeps the size (up to its stride); with a bias only where no norm provides one."""
        padding = dilation * (kernel // 2)
        return nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation, bias=self.norm == "none",
            groups=self.groups if kernel > 1 else 1,
        )  # fmt: skip

    def make_norm(self, channels: int) -> nn.Module:
        """The norm that follows a convolution."""
        return make_norm(self.norm, channels, self.norm_eps)

    def make_last_norm(self, channels: int) -> nn.Module:
        """The norm at the end of a residual branch: starting at zero by option, so that the block is the identity."""
        norm = self.make_norm(channels)
        if self.zero_init_last_norm:
            nn.init.zeros_(norm.get_parameter("weight"))
        return norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

    expansion = 1
    conv_norm_names = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, style: BlockStyle) -> None:
        super().__init__()
        if style.groups != 1 or style.width_per_group != 64 or style.stride_in_1x1:
            raise ValueError(
                "groups, width_per_group and stride_in_1x1 belong to bottleneck blocks: depth 18 and 34 have none; "
                "leave them at 1, 64 and false, or choose depth 50, 101 or 152"
            )
        self.in_channels, self.out_channels = in_channels, width
        self.conv1 = style.conv(in_channels, width, 3, stride, dilation)
        self.bn1 = style.make_norm(width)
        self.conv2 = style.conv(width, width, 3, 1, dilation)
        self.bn2 = style.make_last_norm(width)
        self.downsample = _make_shortcut(in_channels, width, stride, style)
        self.gate = _make_gate(in_channels, width, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        """Map -> map."""
        out = conv_norm_relu(x, self.conv1, self.bn1)
        out = conv_norm(out, self.conv2, self.bn2)
        return F.relu_(_join(x, out, self.downsample, self.gate))


class Bottleneck(nn.Module):
    """1x1 (reduce), 3x3, 1x1 (restore) and a shortcut (ResNet-50 and deeper, ResNeXt, wide ResNet)."""

    expansion = 4
    conv_norm_names = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, style: BlockStyle) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, width * self.expansion
        inner = width * style.width_per_group // 64 * style.groups
        stride_1x1, stride_3x3 = (stride, 1) if style.stride_in_1x1 else (1, stride)
        self.conv1 = style.conv(in_channels, inner, 1, stride_1x1)
        self.bn1 = style.make_norm(inner)
        self.conv2 = style.conv(inner, inner, 3, stride_3x3, dilation)
        self.bn2 = style.make_norm(inner)
        self.conv3 = style.conv(inner, self.out_channels, 1)
        self.bn3 = style.make_last_norm(self.out_channels)
        self.downsample = _make_shortcut(in_channels, self.out_channels, stride, style)
        self.gate = _make_gate(in_channels, self.out_channels, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        """Map -> map."""
        out = conv_norm_relu(x, self.conv1, self.bn1)
        out = conv_norm_relu(out, self.conv2, self.bn2)
        out = conv_norm(out, self.conv3, self.bn3)
        return F.relu_(_join(x, out, self.downsample, self.gate))


class PaddedIdentity(nn.Module):
    """Shortcut A: every `stride`-th position, and zeros in the channels that are new. It has no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # The paper leaves open where the new channels go. The public CIFAR weights expect them on both sides.
        before = (out_channels - in_channels) // 2
        self.padding = (0, 0, 0, 0, before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        """Map -> map."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)


class HighwayGate(nn.Conv2d):
    """T(x), the share of a block's branch at each position and channel; the shortcut has the rest.

    A 1x1 convolution and a sigmoid (Highway Networks, arXiv 1505.00387, section 2.2). The bias begins below zero, so
    that at first the block lets its input through.
    """

    initial_bias = -2.0

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map -> map of values in 0..1."""
        return super().forward(x).sigmoid()


def init_he_normal(module: nn.Module) -> None:
    """Draw all convolutions from He's normal distribution by fan-out, biases zero (He et al., arXiv 1502.01852).

    The biases of highway gates begin at their own value.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.constant_(layer.bias, layer.initial_bias if isinstance(layer, HighwayGate) else 0.0)


def _join(x: Tensor, branch: Tensor, shortcut: nn.Module | None, gate: nn.Module | None) -> Tensor:
    """A block's branch and its shortcut, added up or, with a gate, averaged with its weights."""
    if shortcut is None:
        return branch
    if gate is None:
        branch += shortcut(x)
        return branch
    share = gate(x)
    return share * branch + (1 - share) * shortcut(x)


def _make_gate(in_channels: int, out_channels: int, stride: int, style: BlockStyle) -> HighwayGate | None:
    return HighwayGate(in_channels, out_channels, stride) if style.shortcut == "highway" else None


def _make_shortcut(in_channels: int, out_channels: int, stride: int, style: BlockStyle) -> nn.Module | None:
    """The shortcut of one block: options A, B, C of the paper's section 4.1, B with a gate, None for a plain net."""
    if style.shortcut == "none":
        return None
    keeps_shape = stride == 1 and in_channels == out_channels
    if keeps_shape and style.shortcut != "C":
        return nn.Identity()
    if style.shortcut == "A":
        return PaddedIdentity(in_channels, out_channels, stride)
    norm = style.make_norm(out_channels)
    if not style.avg_pool_shortcut:
        return ConvNorm(style.conv(in_channels, out_channels, 1, stride), norm)
    # "D" (He et al., arXiv 1812.01187): average before projecting, so that no position is left out.
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    return ConvNorm(pool, style.conv(in_channels, out_channels, 1), norm)
