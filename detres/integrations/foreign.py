"""ForeignBackbone: what a network of another library needs to be a backbone of ours.

Shapes: N images of H x W pixels; the map c{k} is (N, C, H/s, W/s) with s = 2^k.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detres.backbones.interface import FeatureSpec, check_out_features

FEATURES = ("c2", "c3", "c4", "c5")
_PROBE_HW = (64, 96)  # unequal sides, so that no other pair of dimensions can pass for them


class FoundMap(NamedTuple):
    """A map that a network makes on its way. channels_first: (N, C, h, w), else (N, h, w, C)."""

    name: str
    spec: FeatureSpec
    channels_first: bool


class ForeignBackbone(nn.Module):
    """A network of another library, its maps named after their strides: c{log2(stride)}, the last one of each stride.

    What does not learn (frozen stages, frozen batch norms) stays in evaluation mode whatever `train()` is told.
    """

    feature_specs: dict[str, FeatureSpec]

    def all_maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> the maps of `feature_specs` and those that are made on the way there."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> the maps of `feature_specs`."""
        maps = self.all_maps(pixels)
        return {name: maps[name] for name in self.feature_specs}

    def freeze(self, stages: int, batch_norms: bool) -> None:
        """Let all that leads to the map c{stages} learn nothing (0: freeze nothing), and no batch norm if so told.

        Raises ValueError when there is no map at that stride or below.
        """
        if stages:
            for parameter in self._parameters_of(stages):
                parameter.requires_grad_(False)
        for module in self.modules():
            if batch_norms and isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                module.requires_grad_(False)
        self.train(self.training)

    def _parameters_of(self, stages: int) -> list[nn.Parameter]:
        """The parameters that the map c{stages} depends on: those that its sum has a gradient by."""
        was_training = self.training
        self.eval()
        parameters = list(self.parameters())
        with torch.enable_grad():
            maps = self.all_maps(probe_pixels(self))
            reached = [name for name in maps if int(name[1:]) <= stages]
            if not reached or not 1 <= stages <= 5:
                first = min(maps, key=lambda name: int(name[1:]))
                raise ValueError(
                    f"frozen_stages: got {stages}, expected 0 (nothing) or {first[1:]} (up to {first}) to 5"
                )
            last = max(reached, key=lambda name: int(name[1:]))
            gradients = torch.autograd.grad(maps[last].sum(), parameters, allow_unused=True)
        self.train(was_training)
        return [parameter for parameter, found in zip(parameters, gradients, strict=True) if found is not None]

    def train(self, mode: bool = True) -> "ForeignBackbone":
        """nn.Module.train, without effect on the parts that do not learn."""
        super().train(mode)
        for module in self.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self


def probe_pixels(network: nn.Module) -> Tensor:
    """A small image (1, 3, 64, 96) of zeros where the network is."""
    return torch.zeros(1, 3, *_PROBE_HW, device=next(network.parameters()).device)


def describe_map(x: object) -> FoundMap | None:
    """What the network made of `probe_pixels`, or None when it is no map at a stride that is a power of two."""
    if not isinstance(x, Tensor) or x.dim() != 4:
        return None
    for channels_first in (True, False):
        size_hw, channels = (x.shape[2:], x.shape[1]) if channels_first else (x.shape[1:3], x.shape[3])
        for level in range(6):
            if (size_hw[0] << level, size_hw[1] << level) == _PROBE_HW:
                return FoundMap(f"c{level}", FeatureSpec(channels, 2**level), channels_first)
    return None


def choose_maps(model: str, found: Mapping[str, FeatureSpec], out_features: Sequence[str]) -> dict[str, FeatureSpec]:
    """The wanted ones of the maps that there are; ValueError when one is unknown, repeated, or none is there."""
    if not found:
        raise ValueError(
            f"model: {model} has no feature maps at strides that are powers of two; choose another network"
        )
    return {name: found[name] for name in check_out_features(out_features, list(found))}


def check_model(model: str, library: str, names: Sequence[str]) -> None:
    """ValueError naming the nearest models unless the library has one of that name."""
    if model not in names:
        nearest = ", ".join(get_close_matches(model, names, n=3)) or "none is similar"
        raise ValueError(f"model: {library} has no {model!r}; nearest: {nearest}")


def refuse_options(options: Mapping[str, object], refused: Mapping[str, str]) -> None:
    """ValueError naming the remedy when one of the refused options was given."""
    for key in options:
        if key in refused:
            raise ValueError(f"{key}: not an option of this backbone; {refused[key]}")
