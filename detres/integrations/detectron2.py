"""detres' ResNet, with or without FPN, as a backbone of detectron2: for its YAML configs and for its LazyConfigs.

Importing this module registers `build_detres_resnet_backbone`, `build_detres_resnet_fpn_backbone` and
`build_detres_retinanet_resnet_fpn_backbone`, which read the very keys that detectron2's builders of the same name
(without `detres_`) read; `detres_resnet` and `detres_resnet_fpn` are for LazyCall. All speak detectron2's language:
res2 ... res5, p2 ..., FrozenBN, freeze_at. ImportError where detectron2 is not installed.

Shapes: N images of H x W pixels; a map of stride s is (N, C, H/s, W/s).
"""

from collections.abc import Sequence
from functools import cache
from logging import getLogger
from typing import Any

from torch import Tensor

from detres.backbones import FPN, FeatureSpec, ResNet
from detres.weights import WeightsError, load_backbone, read_state_dict

RES_FEATURES = ("res2", "res3", "res4", "res5")

_NORMS = {
    "": "none", "FrozenBN": "frozen_batch", "BN": "batch", "GN": "group",
    "SyncBN": "sync_batch", "nnSyncBN": "sync_batch", "naiveSyncBN": "sync_batch",
}  # fmt: skip
_HAS_NO_BOTTLENECKS = (18, 34)


def detres_resnet(
    depth: int = 50,
    *,
    out_features: Sequence[str] = RES_FEATURES,
    norm: str = "FrozenBN",
    freeze_at: int = 0,
    stride_in_1x1: bool = False,
    num_groups: int = 1,
    width_per_group: int = 64,
    res5_dilation: int = 1,
    weights: str | None = None,
    **options: Any,
) -> Any:
    """A DetresBackbone that returns maps named as in `out_features`: pixels (N, 3, H, W) -> {"res2": ..., ...}.

    Arguments have detectron2's names, values and defaults (its ResNet's, not its YAML's); `options` go to
    detres.backbones.ResNet as they are (`deep_stem`, `avg_pool_shortcut`, `checkpoint_activations` ...). `weights` is
    anything that detres reads: a checkpoint, a file, `torchvision:NAME`. Raises ValueError for a setting that this
    network does not have, WeightsError for weights of another network.
    """
    body = _make_resnet(
        depth, out_features, norm, freeze_at, stride_in_1x1, num_groups, width_per_group, res5_dilation, options
    )
    return _load(_backbone_class()(body, None), weights)


def detres_resnet_fpn(
    depth: int = 50,
    *,
    in_features: Sequence[str] = RES_FEATURES,
    out_channels: int = 256,
    fpn_norm: str = "",
    top: str = "maxpool",
    norm: str = "FrozenBN",
    freeze_at: int = 0,
    stride_in_1x1: bool = False,
    num_groups: int = 1,
    width_per_group: int = 64,
    res5_dilation: int = 1,
    weights: str | None = None,
    **options: Any,
) -> Any:
    """A DetresBackbone with a feature pyramid: pixels (N, 3, H, W) -> {"p2": ..., "p6": ...}.

    `in_features`, `out_channels` and `fpn_norm` are the pyramid's. `top` is "maxpool" (p6, Faster R-CNN), "conv" (p6
    and p7, RetinaNet) or "none". The rest, and the errors, are detres_resnet's. Of a detector's weights with a
    pyramid, the pyramid is loaded too.
    """
    body = _make_resnet(
        depth, in_features, norm, freeze_at, stride_in_1x1, num_groups, width_per_group, res5_dilation, options
    )
    return _load(_backbone_class()(body, _make_fpn(body, in_features, out_channels, fpn_norm, top)), weights)


def build_detres_resnet_backbone(cfg: Any, input_shape: Any) -> Any:
    """`MODEL.BACKBONE.NAME: build_detres_resnet_backbone`: what build_resnet_backbone makes, by detres.

    Raises ValueError, naming the key, for what the ResNet of detres does not have: deformable convolutions, other
    widths of stem and res2, other inputs than three channels.
    """
    return _load(_backbone_class()(_body_of(cfg, input_shape), None), _weights_of(cfg))


def build_detres_resnet_fpn_backbone(cfg: Any, input_shape: Any) -> Any:
    """`MODEL.BACKBONE.NAME: build_detres_resnet_fpn_backbone`: p2 ... p6; errors as above, and for FUSE_TYPE avg."""
    return _build_with_fpn(cfg, input_shape, "maxpool")


def build_detres_retinanet_resnet_fpn_backbone(cfg: Any, input_shape: Any) -> Any:
    """`MODEL.BACKBONE.NAME: build_detres_retinanet_resnet_fpn_backbone`: p3 ... p7, p6 and p7 by convolutions on c5."""
    return _build_with_fpn(cfg, input_shape, "conv")


def add_detres_config(cfg: Any) -> None:
    """Give a CfgNode the key MODEL.DETRES.WEIGHTS (""), where a YAML then names weights that detres reads."""
    from detectron2.config import CfgNode

    cfg.MODEL.DETRES = CfgNode()
    cfg.MODEL.DETRES.WEIGHTS = ""


def register() -> type[Any]:
    """Put the three builders into detectron2's BACKBONE_REGISTRY, once, and return the class DetresBackbone.

    Raises ImportError, saying where to get it, when detectron2 is not installed.
    """
    try:
        from detectron2.modeling import BACKBONE_REGISTRY
    except ImportError as error:
        raise ImportError(
            "detres.integrations.detectron2 needs detectron2, which is installed from its source: "
            "pip install 'git+https://github.com/facebookresearch/detectron2.git'"
        ) from error
    for builder in (
        build_detres_resnet_backbone,
        build_detres_resnet_fpn_backbone,
        build_detres_retinanet_resnet_fpn_backbone,
    ):
        if builder.__name__ not in BACKBONE_REGISTRY:
            BACKBONE_REGISTRY.register(builder)
    return _backbone_class()


@cache
def _backbone_class() -> type[Any]:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import Backbone

    class DetresBackbone(Backbone):
        """A ResNet (`body.`) and maybe a pyramid on it (`fpn.`) with detectron2's interface."""

        def __init__(self, body: ResNet, fpn: FPN | None) -> None:
            super().__init__()
            self.body, self.fpn = body, fpn

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            """Normalised pixels (N, 3, H, W) -> the maps of `output_shape`, by their names."""
            maps: dict[str, Tensor] = self.body(x)
            return _named_res(maps) if self.fpn is None else self.fpn(maps)

        def output_shape(self) -> dict[str, Any]:
            """Channels and stride of every map, as ShapeSpecs."""
            specs = _named_res(self.body.feature_specs) if self.fpn is None else self.fpn.feature_specs
            return {name: ShapeSpec(channels=spec.channels, stride=spec.stride) for name, spec in specs.items()}

        @property
        def size_divisibility(self) -> int:
            """What H and W must be multiples of: the coarsest stride under a pyramid, else anything will do (0)."""
            return 0 if self.fpn is None else self.body.feature_specs[self.fpn.in_features[-1]].stride

        @property
        def padding_constraints(self) -> dict[str, int]:
            """The same, as newer versions of detectron2 ask for it."""
            return {"size_divisibility": self.size_divisibility}

    DetresBackbone.__qualname__ = "DetresBackbone"  # what pickle looks for; the name is set below, on import
    return DetresBackbone


def _named_res(maps: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("c", "res"): value for name, value in maps.items()}


def _make_resnet(
    depth: int, features: Sequence[str], norm: str, freeze_at: int, stride_in_1x1: bool, groups: int, width: int,
    res5_dilation: int, options: dict[str, Any],
) -> ResNet:  # fmt: skip
    if res5_dilation not in (1, 2):
        raise ValueError(f"res5_dilation: got {res5_dilation}, expected 1 or 2")
    return ResNet(
        depth,
        # detectron2 lets the key stand for nets without bottlenecks, where it means nothing
        stride_in_1x1=stride_in_1x1 and depth not in _HAS_NO_BOTTLENECKS,
        groups=groups,
        width_per_group=width,
        norm=_norm(norm),
        frozen_stages=freeze_at,
        dilated_c5=res5_dilation == 2,
        out_features=[_c_name(name) for name in features],
        **options,
    )


def _make_fpn(body: ResNet, in_features: Sequence[str], channels: int, norm: str, top: str) -> FPN:
    specs: dict[str, FeatureSpec] = {name: body.feature_specs[name] for name in map(_c_name, in_features)}
    return FPN(specs, channels, norm=_norm(norm), top=top)


def _c_name(name: str) -> str:
    if name not in RES_FEATURES:
        raise ValueError(f"feature {name!r}: this ResNet has {', '.join(RES_FEATURES)}; choose among these")
    return name.replace("res", "c")


def _norm(name: str) -> str:
    if name not in _NORMS:
        raise ValueError(f"norm: got {name!r}, expected one of {', '.join(map(repr, _NORMS))}")
    return _NORMS[name]


def _build_with_fpn(cfg: Any, input_shape: Any, top: str) -> Any:
    pyramid = cfg.MODEL.FPN
    _require("MODEL.FPN.FUSE_TYPE", pyramid.FUSE_TYPE, "sum")
    body = _body_of(cfg, input_shape)
    fpn = _make_fpn(body, pyramid.IN_FEATURES, pyramid.OUT_CHANNELS, pyramid.NORM, top)
    return _load(_backbone_class()(body, fpn), _weights_of(cfg))


def _body_of(cfg: Any, input_shape: Any) -> ResNet:
    keys = cfg.MODEL.RESNETS
    width = 64 if keys.DEPTH in _HAS_NO_BOTTLENECKS else 256
    _require("the number of input channels (MODEL.PIXEL_MEAN)", input_shape.channels, 3)
    _require("MODEL.RESNETS.STEM_OUT_CHANNELS", keys.STEM_OUT_CHANNELS, 64)
    _require(f"MODEL.RESNETS.RES2_OUT_CHANNELS at depth {keys.DEPTH}", keys.RES2_OUT_CHANNELS, width)
    _require("MODEL.RESNETS.DEFORM_ON_PER_STAGE", any(keys.DEFORM_ON_PER_STAGE), False)
    return _make_resnet(
        keys.DEPTH, keys.OUT_FEATURES, keys.NORM, cfg.MODEL.BACKBONE.FREEZE_AT, keys.STRIDE_IN_1X1, keys.NUM_GROUPS,
        keys.WIDTH_PER_GROUP, keys.RES5_DILATION, {},
    )  # fmt: skip


def _require(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(
            f"{what}: got {found!r}, but the ResNet of detres has {expected!r} only; change it, or use the backbone "
            "of detectron2 (MODEL.BACKBONE.NAME without detres_)"
        )


def _weights_of(cfg: Any) -> str | None:
    """MODEL.DETRES.WEIGHTS, where add_detres_config made that key."""
    return getattr(getattr(cfg.MODEL, "DETRES", None), "WEIGHTS", None)


def _load(backbone: Any, weights: str | None) -> Any:
    """The backbone itself, with the weights of that name if there is one."""
    if not weights:
        return backbone
    loaded = read_state_dict(weights)
    report = load_backbone(backbone, loaded)
    getLogger(__name__).info("%s", report.table())
    pyramid = {name.split("fpn.", 1)[1]: x for name, x in loaded.state_dict.items() if _is_pyramids(name)}
    if backbone.fpn is not None and pyramid:
        try:
            backbone.fpn.load_state_dict(pyramid)
        except RuntimeError as error:
            raise WeightsError(f"{weights}: its pyramid is not this one; give the backbone alone ({error})") from error
    return backbone


def _is_pyramids(name: str) -> bool:
    return name.startswith(("backbone.fpn.", "fpn."))


DetresBackbone = register()
