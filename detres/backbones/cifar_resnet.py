"""The paper's networks for 32x32 images (arXiv 1512.03385, section 4.2): 6n + 2 layers, n blocks in each of 3 stages.

Shapes: N images of H x W pixels; c0, c1, c2 are (N, 16, H, W), (N, 32, H/2, W/2), (N, 64, H/4, W/4), rounded up.
Parameter names are those of the public CIFAR weights: conv1, bn1, layer1 ... layer3.
"""

from collections.abc import Sequence

from torch import Tensor

from detres.backbones.blocks import BasicBlock, BlockStyle, init_he_normal
from detres.backbones.interface import FeatureSpec, check_frozen_stages, check_out_features
from detres.backbones.stages import Stage, StagedBackbone

FEATURES = ("c0", "c1", "c2")


class CifarResNet(StagedBackbone):
    """A residual network on 3x3 convolutions of 16, 32 and 64 channels, as a backbone.

    depth                6n + 2: 20, 32, 44, 56, 110, 1202 in the paper
    shortcut             as in ResNet; the paper's is "A", its plain nets are "none"
    frozen_stages        1: the stem does not learn, 2: nor does the first stage, ... 4: nothing does
    out_features         which of c0, c1, c2 to return; stages after the last one are not made

    Other options as in detres.backbones.resnet.ResNet. Raises ValueError for a depth that is not 6n + 2.
    """

    def __init__(
        self,
        depth: int = 20,
        *,
        shortcut: str = "A",
        norm: str = "batch",
        norm_eps: float = 1e-5,
        zero_init_last_norm: bool = False,
        frozen_stages: int = 0,
        checkpoint_activations: bool = False,
        out_features: Sequence[str] = FEATURES,
    ) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth: got {depth}, expected 6n + 2: 20, 32, 44, 56, 110, 1202 or another such number")
        style = BlockStyle(
            shortcut, norm=norm, norm_eps=norm_eps, zero_init_last_norm=zero_init_last_norm,
            checkpoint_activations=checkpoint_activations,
        ).check()  # fmt: skip
        check_frozen_stages(frozen_stages)
        out_features = check_out_features(out_features, FEATURES)
        super().__init__(style.conv(3, 16, 3), style.make_norm(16), FEATURES, stem_frozen=frozen_stages >= 1)
        for number, name in enumerate(FEATURES[: FEATURES.index(out_features[-1]) + 1], start=1):
            stage = _make_stage(number, (depth - 2) // 6, style, frozen=frozen_stages > number)
            self.add_module(f"layer{number}", stage)
            if name in out_features:
                self.feature_specs[name] = FeatureSpec(stage.out_channels, 2 ** (number - 1))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> the maps of `feature_specs`."""
        return self.run_stages(self.run_stem(pixels))


def _make_stage(number: int, num_blocks: int, style: BlockStyle, frozen: bool) -> Stage:
    """Stage 1, 2 or 3: the first block of stages 2 and 3 halves the map and doubles the channels."""
    width = 16 * 2 ** (number - 1)
    first = BasicBlock(16, width, 1, 1, style) if number == 1 else BasicBlock(width // 2, width, 2, 1, style)
    others = [BasicBlock(width, width, 1, 1, style) for _ in range(num_blocks - 1)]
    stage = Stage(first, *others, frozen=frozen, checkpoint_activations=style.checkpoint_activations)
    init_he_normal(stage)
    return stage
