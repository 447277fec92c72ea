"""Stages of residual blocks, and what is made of a stem and stages (ResNet paper, section 3.3).

Shapes: N images, C channels, H x W positions; a stage of stride s maps (N, C_in, H, W) to (N, C, H/s, W/s).
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detres.backbones.blocks import BasicBlock, Bottleneck, init_he_normal
from detres.backbones.interface import FeatureSpec
from detres.layers.norm import conv_norm_relu


class Stage(nn.Sequential):
    """Blocks in a row, the first of which may change size and width: conv2_x ... conv5_x of a ResNet.

    frozen                  it does not learn, and its norms stay in evaluation mode whatever `train()` is told
    checkpoint_activations  in training, keep the maps between groups of blocks only and compute those within a group
                            again in the backward pass: less memory, a third more time (arXiv 1604.06174)
    """

    def __init__(self, *blocks: Any, frozen: bool = False, checkpoint_activations: bool = False) -> None:
        super().__init__(*blocks)
        self.frozen, self.checkpoint_activations = frozen, checkpoint_activations
        if frozen:
            self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map -> map."""
        if not (self.checkpoint_activations and self.training and torch.is_grad_enabled()):
            return super().forward(x)
        # A block keeps about four maps, a group only the one that goes in: n / size + 4 * size is least here.
        size = max(1, round(len(self) ** 0.5 / 2))
        for start in range(0, len(self), size):
            group = tuple(self)[start : start + size]
            contexts = partial(_contexts, group)
            x = checkpoint(_run, group, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        return x

    @property
    def in_channels(self) -> int:
        """Channels of the maps that go in."""
        first = self[0]
        assert isinstance(first, (BasicBlock, Bottleneck)), "a stage is made of residual blocks"
        return first.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the maps that come out."""
        last = self[-1]
        assert isinstance(last, (BasicBlock, Bottleneck)), "a stage is made of residual blocks"
        return last.out_channels

    def train(self, mode: bool = True) -> "Stage":
        """nn.Module.train, without effect on a frozen stage."""
        return super().train(mode and not self.frozen)


class StagedBackbone(nn.Module):
    """A stem, `conv1` and `bn1`, and stages `layer1` ...: what the paper's two families of networks share.

    feature_names  what the map after each stage is called; `feature_specs` says which of them are returned
    stem_frozen    the stem does not learn, and its norms stay in evaluation mode
    """

    def __init__(self, conv1: nn.Module, bn1: nn.Module, feature_names: Sequence[str], *, stem_frozen: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv1, bn1
        self.feature_names, self.stem_frozen = tuple(feature_names), stem_frozen
        self.feature_specs: dict[str, FeatureSpec] = {}
        init_he_normal(conv1)
        for stem_part in (conv1, bn1):
            stem_part.requires_grad_(not stem_frozen)

    def stages(self) -> list[Stage]:
        """conv2_x and those after it, as far as they were made."""
        return [module for module in self.children() if isinstance(module, Stage)]

    @property
    def conv_norm_names(self) -> list[tuple[str, str]]:
        """The last convolution of the stem, and its norm."""
        last = "conv1" if isinstance(self.conv1, nn.Conv2d) else f"conv1.{len(list(self.conv1.children())) - 1}"
        return [(last, "bn1")]

    def run_stem(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (N, 3, H, W) -> the map that the first stage takes, or that is pooled before it."""
        if isinstance(self.conv1, nn.Conv2d):
            return conv_norm_relu(pixels, self.conv1, self.bn1)
        return F.relu_(self.bn1(self.conv1(pixels)))

    def run_stages(self, x: Tensor) -> dict[str, Tensor]:
        """The map that leaves the stem -> the maps of `feature_specs`."""
        features = {}
        for name, stage in zip(self.feature_names, self.stages(), strict=False):
            x = stage(x)
            if name in self.feature_specs:
                features[name] = x
        return features

    def train(self, mode: bool = True) -> "StagedBackbone":
        """nn.Module.train, but the norms of frozen stages stay in evaluation mode."""
        super().train(mode)
        if self.stem_frozen:
            self.conv1.eval()
            self.bn1.eval()
        return self


def _run(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def _contexts(blocks: Sequence[nn.Module]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds the first and the second computation of a group of checkpointed blocks."""
    return nullcontext(), _statistics_kept(blocks)


@contextmanager
def _statistics_kept(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Batch norms in training mode go by their batch as ever, but do not add it to their running statistics again.

    They must go on saving the same tensors for the backward pass, so the statistics stay and their momentum goes.
    """
    layers = [layer for block in blocks for layer in block.modules()]
    norms = [layer for layer in layers if isinstance(layer, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
