"""Feature pyramid network: the same number of channels and good semantics at every stride (arXiv 1612.03144).

Shapes: N images; the map of stride s is (N, C, h_s, w_s). Pyramid maps are named by their stride, p{log2(stride)}:
c2 ... c5 of a ResNet (strides 4 ... 32) give p2 ... p5. Parameter names are torchvision's.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from detres.backbones.interface import Backbone, FeatureSpec
from detres.layers.norm import ConvNorm, make_norm


class FPN(nn.Module):
    """Pyramid on the maps of a backbone.

    in_specs  the backbone's `feature_specs`, each stride twice the one before; ValueError otherwise
    channels  of every pyramid map
    norm      after each 1x1 and 3x3 convolution, which has a bias only without one
    top       coarser maps: "maxpool" adds p6, every second value of p5 (Faster R-CNN); "conv" adds p6 and p7, by
              stride-2 convolutions on c5 and on relu(p6) (RetinaNet); "none" adds none
    """

    def __init__(
        self, in_specs: Mapping[str, FeatureSpec], channels: int = 256, *, norm: str = "none", top: str = "maxpool"
    ) -> None:
        super().__init__()
        levels = _levels(in_specs)
        self.in_features = tuple(in_specs)
        self.inner_blocks = nn.ModuleList(_conv_norm(spec.channels, channels, 1, norm) for spec in in_specs.values())
        self.layer_blocks = nn.ModuleList(_conv_norm(channels, channels, 3, norm) for _ in in_specs)
        self.extra_blocks: nn.Module | None = None
        match top:
            case "maxpool":
                self.extra_blocks = SubsampleTop()
                levels += [levels[-1] + 1]
            case "conv":
                self.extra_blocks = ConvTop(in_specs[self.in_features[-1]].channels, channels, levels[-1])
                levels += [levels[-1] + 1, levels[-1] + 2]
            case "none":
                pass
            case _:
                raise ValueError(f"top: got {top!r}, expected maxpool, conv or none")
        self.feature_specs = {f"p{level}": FeatureSpec(channels, 2**level) for level in levels}
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps of the backbone -> the maps of `feature_specs`."""
        maps = [features[name] for name in self.in_features]
        merged = [block(x) for block, x in zip(self.inner_blocks, maps, strict=True)]
        for finer, coarser in zip(merged[-2::-1], merged[:0:-1], strict=True):
            finer += F.interpolate(coarser, size=finer.shape[-2:], mode="nearest")
        pyramid = [block(x) for block, x in zip(self.layer_blocks, merged, strict=True)]
        if self.extra_blocks is not None:
            pyramid += self.extra_blocks(maps[-1], pyramid[-1])
        return dict(zip(self.feature_specs, pyramid, strict=True))


class SubsampleTop(nn.Module):
    """p6 as every second value of p5."""

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        """Coarsest map of the backbone and of the pyramid -> [p6]."""
        return [F.max_pool2d(p5, kernel_size=1, stride=2)]


class ConvTop(nn.Module):
    """p6 and p7 by stride-2 convolutions on c5 (arXiv 1708.02002); their names follow the level of p5."""

    def __init__(self, in_channels: int, channels: int, level: int) -> None:
        super().__init__()
        self.add_module(f"p{level + 1}", nn.Conv2d(in_channels, channels, 3, stride=2, padding=1))
        self.add_module(f"p{level + 2}", nn.Conv2d(channels, channels, 3, stride=2, padding=1))

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        """Coarsest map of the backbone and of the pyramid -> [p6, p7]."""
        conv6, conv7 = self.children()
        p6 = conv6(c5)
        return [p6, conv7(F.relu(p6))]


class BackboneWithFPN(nn.Module):
    """A backbone and the pyramid on it, itself a backbone; parameters under `body.` and `fpn.`."""

    body: Backbone

    def __init__(self, body: Backbone, fpn: FPN) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.feature_specs = fpn.feature_specs

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> the maps of `feature_specs`."""
        return self.fpn(self.body(pixels))


def _conv_norm(in_channels: int, channels: int, kernel: int, norm: str) -> ConvNorm:
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=norm == "none")
    return ConvNorm(conv, make_norm(norm, channels))


def _levels(in_specs: Mapping[str, FeatureSpec]) -> list[int]:
    """log2 of the strides; ValueError unless they are powers of two and each is twice the one before."""
    strides = [spec.stride for spec in in_specs.values()]
    levels = [stride.bit_length() - 1 for stride in strides]
    if not strides or strides != [2 ** (levels[0] + i) for i in range(len(levels))]:
        found = ", ".join(f"{name}: {spec.stride}" for name, spec in in_specs.items()) or "none"
        raise ValueError(
            "an FPN needs feature maps whose strides are powers of two, each twice the one before; "
            f"found {found}. Choose other out_features of the backbone, and no dilated_c5"
        )
    return levels
