"""What every backbone offers to whatever is built on it: named feature maps, and their channels and strides.

Shapes: N images of H x W pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class FeatureSpec(NamedTuple):
    """A feature map's number of channels, and its stride: how many input pixels lie between neighbours."""

    channels: int
    stride: int


@runtime_checkable
class Backbone(Protocol):
    """A torch module from pixels to feature maps.

    `feature_specs` names the maps, ordered by stride; the forward pass returns exactly these, in this order. A map
    of stride s is (N, channels, h, w) with floor(H / s) <= h <= ceil(H / s), and w likewise.
    """

    feature_specs: dict[str, FeatureSpec]

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> feature maps."""
        ...

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> feature maps."""
        ...


def check_out_features(wanted: Sequence[str], possible: Sequence[str]) -> tuple[str, ...]:
    """The wanted features in the order of the possible ones; ValueError if one is unknown, repeated, or none is."""
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(possible):
        raise ValueError(
            f"out_features: got {list(wanted)}, expected at least one of {', '.join(possible)}, each at most once"
        )
    return tuple(name for name in possible if name in wanted)


def check_frozen_stages(frozen_stages: int) -> None:
    """ValueError unless the number of frozen stages is one of 0 (nothing), 1 (the stem) ... 5 (all up to conv5_x)."""
    if not 0 <= frozen_stages <= 5:
        raise ValueError(f"frozen_stages: got {frozen_stages}, expected 0 (train everything) to 5 (train nothing)")
