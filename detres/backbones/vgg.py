"""VGG, the baseline of the ResNet paper's detection experiments (arXiv 1409.1556, table 1).

Shapes: N images of H x W pixels; c2 ... c5 are (N, C, H/s, W/s), sizes rounded down, with s = 2, 4, 8, 16.
Parameter names are torchvision's, so that its state dicts load as they are. The pool after conv5_x is left out.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from detres.backbones.blocks import init_he_normal
from detres.backbones.interface import FeatureSpec, check_frozen_stages, check_out_features
from detres.layers.norm import make_norm

FEATURES = ("c2", "c3", "c4", "c5")

_CONVS_PER_STAGE = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """A VGG net as a backbone: conv1_x ... conv5_x with a 2x2 max-pool between stages.

    depth          11, 13, 16 or 19
    norm           see detres.layers.norm.make_norm; "none" is the original
    frozen_stages  1: conv1_x does not learn, 2: nor does conv2_x (the Faster R-CNN paper's choice), ...
    out_features   which of c2 ... c5 to return; stages after the last one are not made

    Raises ValueError for unknown values.
    """

    def __init__(
        self, depth: int = 16, *, norm: str = "none", frozen_stages: int = 0, out_features: Sequence[str] = ("c5",)
    ) -> None:
        super().__init__()
        if depth not in _CONVS_PER_STAGE:
            raise ValueError(f"depth: got {depth}, expected one of {', '.join(map(str, _CONVS_PER_STAGE))}")
        check_frozen_stages(frozen_stages)
        out_features = check_out_features(out_features, FEATURES)
        self.frozen_stages = frozen_stages
        self.feature_specs = {
            name: FeatureSpec(_WIDTHS[i], 2**i) for i, name in enumerate(FEATURES, start=1) if name in out_features
        }
        last_stage = FEATURES.index(out_features[-1]) + 2
        layers: list[nn.Module] = []
        self._stage_ends: list[int] = []  # where in `features` conv1_x, conv2_x ... end, before their pools
        for num_convs, width in list(zip(_CONVS_PER_STAGE[depth], _WIDTHS, strict=True))[:last_stage]:
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(num_convs):
                layers += _conv_layers(_last_width(layers), width, norm)
            self._stage_ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        init_he_normal(self)
        self._frozen_layers().requires_grad_(False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> the maps of `feature_specs`."""
        x, maps = pixels, []
        for stage in self.stages():
            x = stage(x)
            maps.append(x)
        return {name: x for name, x in zip(FEATURES, maps[1:], strict=False) if name in self.feature_specs}

    def stages(self) -> list[nn.Sequential]:
        """conv1_x and those after it, as far as they were made, each with the max-pool before it."""
        return [self.features[start:end] for start, end in zip([0, *self._stage_ends], self._stage_ends, strict=False)]

    def train(self, mode: bool = True) -> "VGG":
        """nn.Module.train, but the norms of frozen stages stay in evaluation mode."""
        super().train(mode)
        self._frozen_layers().eval()
        return self

    def _frozen_layers(self) -> nn.Sequential:
        return self.features[: ([0, *self._stage_ends])[min(self.frozen_stages, len(self._stage_ends))]]


def _conv_layers(in_channels: int, out_channels: int, norm: str) -> list[nn.Module]:
    """A 3x3 convolution (with bias, as torchvision has it even before a norm), its norm if any, ReLU."""
    norms = [] if norm == "none" else [make_norm(norm, out_channels)]
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1), *norms, nn.ReLU(inplace=True)]


def _last_width(layers: Sequence[nn.Module]) -> int:
    """Channels that the layers so far put out: those of an image when there are none."""
    widths = [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)]
    return widths[-1] if widths else 3
