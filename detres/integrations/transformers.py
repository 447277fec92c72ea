"""detres' ResNet as a backbone of transformers, for whatever takes a `backbone_config`: the DETR family, MaskFormer ...

Importing this module registers DetresBackboneConfig and DetresBackbone with AutoConfig and AutoBackbone, under the
model type "detres". ImportError where transformers is not installed.

Shapes: N images of H x W pixels; the map of stage i (1 ... 4) is (N, C, H/s, W/s) with s = 4, 8, 16, 32.
"""

from collections.abc import Sequence
from functools import cache
from logging import getLogger
from typing import Any

import torch
from torch import Tensor, nn

from detres.backbones import ResNet
from detres.backbones.blocks import init_he_normal
from detres.backbones.resnet import FEATURES
from detres.weights import load_backbone, read_state_dict

# As in transformers' own ResNet, so that the usual out_indices mean the same; the stem's map is not given out.
STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")
# Not a name with "resnet" in it: DETR freezes all of such a backbone but what it calls "stage.1" ... "stage.3".
MODEL_TYPE = "detres"

_WITHOUT_BOTTLENECKS = (18, 34)


def register() -> tuple[type[Any], type[Any]]:
    """Make the two classes known to AutoConfig and AutoBackbone, and return them; again is no harm.

    Raises ImportError, saying what to install, when transformers is not there.
    """
    try:
        from transformers import AutoBackbone, AutoConfig
    except ImportError as error:
        raise ImportError(
            f"detres.integrations.transformers needs transformers 4.40 or newer: pip install transformers ({error})"
        ) from error
    config, backbone = _config_class(), _backbone_class()
    AutoConfig.register(MODEL_TYPE, config, exist_ok=True)
    AutoBackbone.register(config, backbone, exist_ok=True)
    return config, backbone


def _mixins() -> tuple[type[Any], type[Any]]:
    """BackboneConfigMixin and BackboneMixin, from where this version of transformers keeps them."""
    try:
        from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
    except ImportError:
        from transformers.utils.backbone_utils import BackboneConfigMixin, BackboneMixin
    return BackboneConfigMixin, BackboneMixin


@cache
def _config_class() -> type[Any]:
    from transformers import PretrainedConfig

    mixin, _ = _mixins()

    class DetresBackboneConfig(mixin, PretrainedConfig):  # type: ignore[valid-type, misc]
        """What a DetresBackbone is made of.

        out_features, out_indices  which maps to return: names among stage1 ... stage4, or 1 ... 4; default the last
        weights                    anything that detres reads: a checkpoint, a file, `torchvision:NAME`. Read when a
                                   model is built from the configuration; from_pretrained has the weights of its own
                                   files. Not saved: what is saved beside it are the weights themselves
        the rest                   as in detres.backbones.ResNet
        """

        model_type = MODEL_TYPE

        def __init__(
            self,
            depth: int = 50,
            stride_in_1x1: bool = False,
            groups: int = 1,
            width_per_group: int = 64,
            deep_stem: bool = False,
            avg_pool_shortcut: bool = False,
            norm: str = "batch",
            frozen_stages: int = 0,
            dilated_c5: bool = False,
            checkpoint_activations: bool = False,
            weights: str | None = None,
            out_features: Sequence[str] | None = None,
            out_indices: Sequence[int] | None = None,
            **common: Any,
        ) -> None:
            common.pop("stage_names", None)  # in a saved configuration, and always the same
            super().__init__(**common)
            self.depth, self.groups, self.width_per_group = depth, groups, width_per_group
            self.stride_in_1x1, self.dilated_c5, self.norm = stride_in_1x1, dilated_c5, norm
            self.deep_stem, self.avg_pool_shortcut, self.frozen_stages = deep_stem, avg_pool_shortcut, frozen_stages
            self.checkpoint_activations, self.weights = checkpoint_activations, weights
            self.stage_names = list(STAGES)
            self._out_features = _aligned(out_features, out_indices)
            self._out_indices = [STAGES.index(name) for name in self._out_features]

        def to_dict(self) -> dict[str, Any]:
            """What is saved."""
            return {name: value for name, value in super().to_dict().items() if name != "weights"}

    DetresBackboneConfig.__qualname__ = "DetresBackboneConfig"  # what pickle looks for; the name is set on import
    return DetresBackboneConfig


@cache
def _backbone_class() -> type[Any]:
    from transformers import PreTrainedModel

    class DetresBackbone(_mixins()[1], PreTrainedModel):  # type: ignore[misc]
        """A ResNet (`body.`) with the AutoBackbone interface: `channels`, `out_features`, BackboneOutput."""

        config_class = _config_class()
        base_model_prefix = "detres"
        main_input_name = "pixel_values"
        has_attentions = False

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            if hasattr(self, "_init_backbone"):  # transformers 4
                self._init_backbone(config)
            self.num_features = _channels(config.depth)
            self._has_values = _layers_get_values()
            self.body = _make_resnet(config)
            if config.weights:
                _load(self, config.weights, self._has_values)
            self.post_init()

        def forward(
            self,
            pixel_values: Tensor,
            output_hidden_states: bool | None = None,
            output_attentions: bool | None = None,
            return_dict: bool | None = None,
            **_: Any,
        ) -> Any:
            """Normalised pixels (N, 3, H, W) -> BackboneOutput: maps of `out_features`; as hidden states, of all."""
            stages = dict(zip(STAGES[1:], self.body(pixel_values).values(), strict=False))
            hidden = tuple(stages.values()) if output_hidden_states else None
            return _output(_chosen(stages, self.out_features), hidden, return_dict)

        def train(self, mode: bool = True) -> "DetresBackbone":
            """nn.Module.train. Loading makes parameters anew that all learn; the frozen stages' stop here again."""
            super().train(mode)
            for layer in _frozen_layers(self.body, self.config.frozen_stages):
                layer.requires_grad_(False)
            return self

        def _init_weights(self, module: nn.Module) -> None:
            # On every layer, after building (weights may be loaded by then) and for what from_pretrained's files lack
            if not self._has_values:
                _initialise(module)

    DetresBackbone.__qualname__ = "DetresBackbone"
    return DetresBackbone


def _output(chosen: tuple[Tensor, ...], hidden: tuple[Tensor, ...] | None, return_dict: bool | None) -> Any:
    """What forward returns: a BackboneOutput, or a tuple for those who ask for one."""
    from transformers.modeling_outputs import BackboneOutput

    if return_dict is False:
        return (chosen,) if hidden is None else (chosen, hidden)
    return BackboneOutput(feature_maps=chosen, hidden_states=hidden, attentions=None)


def _frozen_layers(body: Any, frozen_stages: int) -> list[nn.Module]:
    """The stem and the stages that do not learn; meanings as in detres.backbones.resnet.ResNet."""
    stages = [[body.conv1, body.bn1], *([stage] for stage in body.stages())]
    return [layer for layers in stages[:frozen_stages] for layer in layers]


def _chosen(stages: dict[str, Tensor], out_features: Sequence[str]) -> tuple[Tensor, ...]:
    """The maps of those names; ValueError for stages that were not made, as they were not asked for then."""
    missing = [name for name in out_features if name not in stages]
    if missing:
        raise ValueError(f"out_features: {missing} were not made; name them when the backbone is made")
    return tuple(stages[name] for name in out_features)


def _load(backbone: nn.Module, weights: str, has_values: bool) -> None:
    if has_values:
        report = load_backbone(backbone, read_state_dict(weights))
        getLogger(__name__).info("%s", report.table())
    else:
        getLogger(__name__).warning("%s: not read, from_pretrained has weights of its own files", weights)


def _aligned(out_features: Sequence[str] | None, out_indices: Sequence[int] | None) -> list[str]:
    """The names of the maps to return, in their order; ValueError for unknown or contradicting ones."""
    if out_features is None:
        wanted = [-1] if out_indices is None else list(out_indices)
        if not all(-len(STAGES) <= index < len(STAGES) for index in wanted):
            raise ValueError(f"out_indices: got {wanted}, expected some of 1 ... {len(STAGES) - 1}")
        out_features, out_indices = [STAGES[index] for index in wanted], None
    expected = [name for name in STAGES[1:] if name in out_features]
    if not expected or list(out_features) != expected:
        raise ValueError(
            f"out_features: got {list(out_features)}, expected some of {', '.join(STAGES[1:])}, each once and in order"
        )
    if out_indices is not None and [STAGES[index] for index in out_indices] != expected:
        raise ValueError(f"out_features {expected} and out_indices {list(out_indices)} contradict; give one of them")
    return expected


def _channels(depth: int) -> list[int]:
    """Of the stem and the four stages."""
    expansion = 1 if depth in _WITHOUT_BOTTLENECKS else 4
    return [64, *(64 * 2**i * expansion for i in range(4))]


def _make_resnet(config: Any) -> ResNet:
    """The network up to the last map that is asked for, returning all on the way."""
    return ResNet(
        config.depth,
        stride_in_1x1=config.stride_in_1x1,
        groups=config.groups,
        width_per_group=config.width_per_group,
        deep_stem=config.deep_stem,
        avg_pool_shortcut=config.avg_pool_shortcut,
        norm=config.norm,
        frozen_stages=config.frozen_stages,
        dilated_c5=config.dilated_c5,
        checkpoint_activations=config.checkpoint_activations,
        out_features=FEATURES[: STAGES.index(config.out_features[-1])],
    )


def _layers_get_values() -> bool:
    """Whether layers made now get their initial values: from_pretrained makes them without, on the meta device or,
    in transformers 4, with torch.nn.init switched off.
    """
    probe = torch.zeros(1)
    nn.init.constant_(probe, 1.0)
    return not probe.is_meta and bool(probe == 1)


def _initialise(module: nn.Module) -> None:
    """Initial values of one layer; norms may be ours, torch's, or what a DETR put in their place."""
    if isinstance(module, nn.Conv2d):
        init_he_normal(module)
    elif isinstance(module, nn.GroupNorm) or hasattr(module, "running_var"):
        nn.init.ones_(module.weight)  # type: ignore[arg-type]
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for name, buffer in module.named_buffers(recurse=False):
            if name in ("running_mean", "num_batches_tracked"):
                nn.init.zeros_(buffer)
            elif name == "running_var":
                nn.init.ones_(buffer)


DetresBackboneConfig, DetresBackbone = register()
