"""torchvision_backbone: our backbones in torchvision's detectors.

Shapes: N images of H x W pixels; the map of stride s is (N, C, H/s, W/s).
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from detres.backbones.fpn import FPN, BackboneWithFPN, SubsampleTop
from detres.backbones.interface import Backbone


class AdaptedBackbone(nn.Module):
    """A detres backbone as torchvision's detectors take one; made by `torchvision_backbone`.

    out_channels   of every map
    feature_names  what torchvision calls the maps: "0", "1", ... and "pool" or "p6", "p7" for what tops a pyramid
    Parameters are named as in torchvision: `body.*` and, with a pyramid, `fpn.*`.
    """

    body: Backbone

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        widths = {name: spec.channels for name, spec in backbone.feature_specs.items()}
        if len(set(widths.values())) != 1:
            raise ValueError(
                f"torchvision's detectors need maps of one width, found {widths}; "
                'pass fpn="maxpool" (or "conv" for RetinaNet and FCOS), or a backbone with one of out_features'
            )
        self.feature_specs = backbone.feature_specs
        self.out_channels = next(iter(widths.values()))
        self.fpn: FPN | None = None
        if isinstance(backbone, BackboneWithFPN):
            self.body, self.fpn = backbone.body, backbone.fpn
        else:
            self.body = backbone
        self.feature_names = _torchvision_names(list(widths), self.fpn)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> OrderedDict of the maps, finest first."""
        maps = self.body(pixels)
        if self.fpn is not None:
            maps = self.fpn(maps)
        return OrderedDict(zip(self.feature_names, maps.values(), strict=True))


def torchvision_backbone(backbone: Backbone, *, fpn: str | None = None, fpn_channels: int = 256) -> AdaptedBackbone:
    """A detres backbone for torchvision's FasterRCNN, RetinaNet, FCOS, MaskRCNN and KeypointRCNN.

    fpn  None: the maps as they are (one map, or a BackboneWithFPN); else put a pyramid on them with that `top`:
         "maxpool" (p2 ... p6: FasterRCNN, MaskRCNN, KeypointRCNN), "conv" (p3 ... p7 on out_features c3 ... c5:
         RetinaNet, FCOS) or "none"

    The backbone itself is wrapped, not a copy. Raises ValueError when maps of several widths have no pyramid.
    """
    if fpn is not None:
        backbone = BackboneWithFPN(backbone, FPN(backbone.feature_specs, fpn_channels, top=fpn))
    return AdaptedBackbone(backbone)


def _torchvision_names(names: Sequence[str], fpn: FPN | None) -> list[str]:
    """torchvision numbers the levels that regions are pooled from and names those above them."""
    if fpn is None or fpn.extra_blocks is None:
        return [str(i) for i in range(len(names))]
    pooled = len(fpn.layer_blocks)
    above = ["pool"] if isinstance(fpn.extra_blocks, SubsampleTop) else list(names[pooled:])
    return [str(i) for i in range(pooled)] + above
