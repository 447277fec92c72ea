"""detres' ResNet as a backbone of mmdetection 3.x, registered as `DetresResNet` in its MODELS.

Importing this module registers it: `custom_imports = dict(imports=["detres.integrations.mmdet"])` in a configuration
is enough. ImportError where mmdet is not installed.

Shapes: N images of H x W pixels; a map of stride s is (N, C, H/s, W/s).
"""

from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any

from torch import Tensor, nn

from detres.backbones import ResNet
from detres.backbones.resnet import FEATURES
from detres.weights import load_backbone, read_state_dict

_NORMS = {"BN": "batch", "SyncBN": "sync_batch", "GN": "group"}
_NORM_LAYERS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)
_PLAIN = ((1, 2, 2, 2), (1, 1, 1, 1))  # strides and dilations of the four stages
_DILATED_C5 = ((1, 2, 2, 1), (1, 1, 1, 2))
_HAS_NO_BOTTLENECKS = (18, 34)


class DetresResNet(ResNet):
    """A ResNet that takes the arguments of mmdetection's ResNet and ResNeXt, and returns a tuple of maps.

    A configuration of theirs needs another `type`, and `weights` in place of `init_cfg`. It derives from the network
    instead of holding one, so that its parameters have the very names of mmdetection's: checkpoints fit both ways.
    There is no method `init_weights`, on purpose: mmengine's modules call it on all their children after building
    them, and would wipe the weights that were loaded here.

    depth          18, 34, 50, 101 or 152
    out_indices    which of the stages 0 ... 3 to return, of num_stages
    strides, dilations  of the stages: the usual ones, or (1, 2, 2, 1) and (1, 1, 1, 2), dilated conv5_x
    style          "pytorch": bottlenecks stride in the 3x3, "caffe": in the first 1x1
    frozen_stages  -1: everything learns, 0: the stem does not, 1: nor does the first stage ... 4
    norm_cfg       type BN, SyncBN or GN; with requires_grad=False no norm's weight and bias learn
    norm_eval      batch norms stay in evaluation mode when training
    groups, base_width  ResNeXt: 32 and 4, for instance
    deep_stem, avg_down  the "D" variant
    with_cp        compute maps again in the backward pass instead of keeping them
    weights        anything that detres reads: a checkpoint, a file, `torchvision:NAME`

    Raises ValueError for what this network does not have, WeightsError for weights of another network.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        num_stages: int = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        style: str = "pytorch",
        frozen_stages: int = -1,
        norm_cfg: Mapping[str, Any] | None = None,
        norm_eval: bool = True,
        groups: int = 1,
        base_width: int = 64,
        deep_stem: bool = False,
        avg_down: bool = False,
        with_cp: bool = False,
        weights: str | None = None,
        init_cfg: None = None,
    ) -> None:
        _check(num_stages, out_indices, style, init_cfg)
        norm_cfg = norm_cfg or {}
        super().__init__(
            depth,
            stride_in_1x1=style == "caffe" and depth not in _HAS_NO_BOTTLENECKS,
            groups=groups,
            width_per_group=base_width,
            deep_stem=deep_stem,
            avg_pool_shortcut=avg_down,
            norm=_norm(norm_cfg.get("type", "BN"), norm_cfg),
            norm_eps=norm_cfg.get("eps", 1e-5),
            frozen_stages=frozen_stages + 1,
            dilated_c5=_is_dilated(strides or _PLAIN[0][:num_stages], dilations or _PLAIN[1][:num_stages]),
            checkpoint_activations=with_cp,
            out_features=[FEATURES[index] for index in out_indices],
        )
        self.norm_eval = norm_eval
        if not norm_cfg.get("requires_grad", True):
            for norm in self._norms():
                norm.requires_grad_(False)
        if weights:
            report = load_backbone(self, read_state_dict(weights))
            getLogger(__name__).info("%s", report.table())

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Normalised pixels (N, 3, H, W) -> the maps of `out_indices`."""
        return tuple(super().forward(pixels).values())

    def train(self, mode: bool = True) -> "DetresResNet":
        """nn.Module.train, but frozen stages and, with norm_eval, all batch norms stay in evaluation mode."""
        super().train(mode)
        if self.norm_eval:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [layer for layer in self.modules() if isinstance(layer, _NORM_LAYERS)]


def register() -> None:
    """Put DetresResNet into mmdet's registry MODELS; again is no harm.

    Raises ImportError, saying what to install, when mmdet is not there.
    """
    try:
        from mmdet.registry import MODELS
    except ImportError as error:
        raise ImportError(
            "detres.integrations.mmdet needs mmdet 3.x, with mmengine and mmcv: pip install mmdet mmengine mmcv "
            f"({error})"
        ) from error
    MODELS.register_module(module=DetresResNet, force=True)


def _check(num_stages: int, out_indices: Sequence[int], style: str, init_cfg: object) -> None:
    if init_cfg is not None:
        raise ValueError(
            f"init_cfg: got {init_cfg!r}, but DetresResNet loads its weights itself: set init_cfg=None, and "
            "weights='torchvision:ResNet50_Weights.IMAGENET1K_V1' or a file"
        )
    if style not in ("pytorch", "caffe"):
        raise ValueError(f"style: got {style!r}, expected pytorch or caffe")
    if not out_indices or not all(0 <= index < num_stages <= len(FEATURES) for index in out_indices):
        raise ValueError(
            f"out_indices: got {list(out_indices)} with num_stages {num_stages}, expected at least one of "
            f"0 ... num_stages - 1, and at most {len(FEATURES)} stages"
        )


def _norm(kind: str, norm_cfg: Mapping[str, Any]) -> str:
    if kind not in _NORMS or norm_cfg.get("num_groups", 32) != 32:
        raise ValueError(f"norm_cfg: got {dict(norm_cfg)}, expected a type of {', '.join(_NORMS)}, GN with 32 groups")
    return _NORMS[kind]


def _is_dilated(strides: Sequence[int], dilations: Sequence[int]) -> bool:
    """Whether these are the strides and dilations of a net with a dilated conv5_x, not of a plain one."""
    found = (tuple(strides), tuple(dilations))
    if found == tuple(part[: len(strides)] for part in _PLAIN):
        return False
    if found == _DILATED_C5:
        return True
    raise ValueError(f"strides and dilations: got {found}, expected {_PLAIN} or {_DILATED_C5}")


register()
