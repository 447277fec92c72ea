"""Exponential moving average of the weights (Polyak and Juditsky, 1992, in the form of Tarvainen and Valpola, 2017)."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn


class WeightAverage:
    """A second model whose floating-point parameters and buffers trail those of the first.

    `module` is that model, in eval mode: evaluation uses it. Integer buffers are copied.
    With `ramp` the decay is min(decay, (1 + step) / (10 + step)), so that short runs profit too.
    """

    def __init__(self, model: nn.Module, decay: float, ramp: bool = True) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.ramp = ramp

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights that `model` has after its `step`-th step (counted from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.ramp else self.decay
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for old, new in zip(_tensors(self.module), _tensors(model), strict=True):
            if old.is_floating_point():
                averaged.append(old)
                current.append(new)
            else:
                old.copy_(new)
        if averaged:
            torch._foreach_lerp_(averaged, current, 1 - decay)


def _tensors(model: nn.Module) -> "chain[Tensor]":
    return chain(model.parameters(), model.buffers())
