"""ResNet and its relatives: ResNeXt, wide ResNet, the "D" variant, the plain net (arXiv 1512.03385, table 1).

Shapes: N images of H x W pixels; c2 ... c5 are (N, C, H/s, W/s), sizes rounded up, with s = 4, 8, 16, 32.
Parameter names are torchvision's, so that its state dicts load as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detres.backbones.blocks import BasicBlock, BlockStyle, Bottleneck, init_he_normal
from detres.backbones.interface import FeatureSpec, check_frozen_stages, check_out_features
from detres.backbones.stages import Stage, StagedBackbone

FEATURES = ("c2", "c3", "c4", "c5")

_LAYOUTS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(StagedBackbone):
    """A residual network as a backbone.

    depth                18, 34, 50, 101 or 152
    shortcut             "A": no parameters, "B": projections where the shape changes, "C": projections everywhere,
                         "none": no shortcuts, the plain net, "highway": B, weighted against the branch by a gate
    stride_in_1x1        bottlenecks stride in their first 1x1 convolution (the paper, MSRA), not in the 3x3
    groups               of the 3x3 convolutions (ResNeXt: 32)
    width_per_group      64 is the plain width (ResNeXt-50 32x4d: 4; wide ResNet-50-2: 128)
    deep_stem            "D" variant: three 3x3 convolutions in place of the 7x7
    avg_pool_shortcut    "D" variant: projections average 2x2 positions in place of dropping three of them
    norm, norm_eps       see detres.layers.norm.make_norm; with "none" the convolutions have biases
    zero_init_last_norm  every residual branch starts at zero (arXiv 1706.02677, section 5.1)
    frozen_stages        1: the stem does not learn, 2: nor does conv2_x, ... 5: nothing does
    dilated_c5           conv5_x keeps stride 16 and dilates all its 3x3 convolutions by 2 (DC5)
    checkpoint_activations  in training, compute most maps again in the backward pass instead of keeping them (Stage)
    out_features         which of c2 ... c5 to return; stages after the last one are not made

    Raises ValueError for values that are unknown or contradict each other.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        shortcut: str = "B",
        stride_in_1x1: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        deep_stem: bool = False,
        avg_pool_shortcut: bool = False,
        norm: str = "batch",
        norm_eps: float = 1e-5,
        zero_init_last_norm: bool = False,
        frozen_stages: int = 0,
        dilated_c5: bool = False,
        checkpoint_activations: bool = False,
        out_features: Sequence[str] = FEATURES,
    ) -> None:
        style = BlockStyle(
            shortcut, stride_in_1x1, groups, width_per_group, avg_pool_shortcut, norm, norm_eps, zero_init_last_norm,
            checkpoint_activations,
        ).check()  # fmt: skip
        check_frozen_stages(frozen_stages)
        out_features = check_out_features(out_features, FEATURES)
        super().__init__(_make_stem(deep_stem, style), style.make_norm(64), FEATURES, stem_frozen=frozen_stages >= 1)
        for number, name in enumerate(FEATURES[: FEATURES.index(out_features[-1]) + 1], start=2):
            stage = _make_stage(number, depth, style, frozen_stages, dilated_c5)
            self.add_module(f"layer{number - 1}", stage)
            if name in out_features:
                stride = 16 if number == 5 and dilated_c5 else 2**number
                self.feature_specs[name] = FeatureSpec(stage.out_channels, stride)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> the maps of `feature_specs`."""
        return self.run_stages(F.max_pool2d(self.run_stem(pixels), kernel_size=3, stride=2, padding=1))


def conv5_stage(
    depth: int = 50,
    *,
    frozen_stages: int = 0,
    dilated_c5: bool = False,
    deep_stem: bool = False,
    out_features: Sequence[str] = FEATURES,
    **style: Any,
) -> Stage:
    """conv5_x alone, for the head of a C4 detector: maps (R, in_channels, h, w) -> (R, out_channels, h/2, w/2).

    Takes what ResNet takes, so that one set of arguments makes both; those that do not concern conv5_x are ignored.
    """
    check_frozen_stages(frozen_stages)
    return _make_stage(5, depth, BlockStyle(**style).check(), frozen_stages, dilated_c5)


def _make_stage(number: int, depth: int, style: BlockStyle, frozen_stages: int, dilated_c5: bool) -> Stage:
    """conv{number}_x of the network of that depth."""
    if depth not in _LAYOUTS:
        raise ValueError(f"depth: got {depth}, expected one of {', '.join(map(str, _LAYOUTS))}")
    block, num_blocks = _LAYOUTS[depth]
    width = 64 * 2 ** (number - 2)
    in_channels = 64 if number == 2 else width // 2 * block.expansion
    is_dilated = number == 5 and dilated_c5
    stride, dilation = (1 if number == 2 or is_dilated else 2), (2 if is_dilated else 1)
    blocks = [block(in_channels, width, stride, dilation, style)]
    while len(blocks) < num_blocks[number - 2]:
        blocks.append(block(blocks[-1].out_channels, width, 1, dilation, style))
    stage = Stage(*blocks, frozen=frozen_stages >= number, checkpoint_activations=style.checkpoint_activations)
    init_he_normal(stage)
    return stage


def _make_stem(deep: bool, style: BlockStyle) -> nn.Module:
    """The layers from pixels to 64 channels at stride 2, the last norm excepted."""
    ungrouped = style._replace(groups=1)
    if not deep:
        return ungrouped.conv(3, 64, 7, stride=2)
    return nn.Sequential(
        ungrouped.conv(3, 32, 3, stride=2), style.make_norm(32), nn.ReLU(inplace=True),
        ungrouped.conv(32, 32, 3), style.make_norm(32), nn.ReLU(inplace=True),
        ungrouped.conv(32, 64, 3),
    )  # fmt: skip


def resnet18(**options: Any) -> ResNet:
    """ResNet-18; options as in ResNet."""
    return ResNet(18, **options)


def resnet34(**options: Any) -> ResNet:
    """ResNet-34; options as in ResNet."""
    return ResNet(34, **options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50; options as in ResNet."""
    return ResNet(50, **options)


def resnet101(**options: Any) -> ResNet:
    """ResNet-101; options as in ResNet."""
    return ResNet(101, **options)


def resnet152(**options: Any) -> ResNet:
    """ResNet-152; options as in ResNet."""
    return ResNet(152, **options)


def resnext50_32x4d(**options: Any) -> ResNet:
    """ResNeXt-50 32x4d (arXiv 1611.05431); options as in ResNet."""
    return ResNet(50, groups=32, width_per_group=4, **options)


def resnext101_32x8d(**options: Any) -> ResNet:
    """ResNeXt-101 32x8d; options as in ResNet."""
    return ResNet(101, groups=32, width_per_group=8, **options)


def resnext101_64x4d(**options: Any) -> ResNet:
    """ResNeXt-101 64x4d; options as in ResNet."""
    return ResNet(101, groups=64, width_per_group=4, **options)


def wide_resnet50_2(**options: Any) -> ResNet:
    """Wide ResNet-50-2 (arXiv 1605.07146): twice the width inside the bottlenecks; options as in ResNet."""
    return ResNet(50, width_per_group=128, **options)


def wide_resnet101_2(**options: Any) -> ResNet:
    """Wide ResNet-101-2; options as in ResNet."""
    return ResNet(101, width_per_group=128, **options)
