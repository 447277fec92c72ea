"""Batch norm statistics of fixed weights, recomputed over many batches ("precise BN"; ResNet paper, appendix A).

The running statistics of training lag behind weights that change. Here the weights rest: each batch b goes through
with its own statistics (as in training), and every norm sees n_b values per channel of mean m_b and variance v_b. Then

    mean = sum(n_b m_b) / n        variance = sum(n_b (v_b + (m_b - mean)^2)) / n        n = sum(n_b)

are the mean and the variance of all values together, the variance between the batches' means included.

Shapes: C channels of one norm.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detres.engine.precision import Precision, PrecisionName
from detres.structures import Batch


@dataclass
class Moments:
    """Mean (C,) and sum of squared distances from it (C,), in double precision, of `count` values per channel."""

    count: int = 0
    mean: Tensor | None = None
    squares: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Take the values of a map (N, C, ...) in (Chan et al., 1979: sums of squares would cancel)."""
        number = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x.float(), dim=[d for d in range(x.dim()) if d != 1], correction=0)
        squares, mean = variance.double() * number, mean.double()
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = number, mean, squares
            return
        total, step = self.count + number, mean - self.mean
        self.squares = self.squares + squares + step.square() * (self.count * number / total)
        self.mean = self.mean + step * (number / total)
        self.count = total


@torch.no_grad()
def recompute_norm_statistics(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | str,
    precision: PrecisionName = "float32",
    progress: Callable[[int], None] | None = None,
) -> int:
    """Replace the running statistics of all batch norms that learn by those over `batches`; returns the image count.

    Frozen norms, and those that no batch reaches, keep theirs; dropout is off. `progress` is told the number of images
    so far. The statistics are replaced at the end, all at once: whatever interrupts this leaves the model as it was.
    Raises ValueError when the model has no such norm, when there is no batch, and when statistics are not finite.
    """
    device = torch.device(device)
    autocast = Precision(precision, device).autocast
    found: dict[_BatchNorm, Moments] = {}
    num_images = 0
    with _measuring(model, found):
        for batch in batches:
            on_device = batch.to(device)
            with autocast():
                model(on_device.images, on_device.targets)
            num_images += len(batch)
            if progress is not None:
                progress(num_images)
    if not num_images:
        raise ValueError("recomputing norm statistics needs at least one batch of images, got none")
    _replace(model, found)
    return num_images


@contextmanager
def _measuring(model: nn.Module, found: dict[_BatchNorm, Moments]) -> Iterator[None]:
    """A context in which the norms that learn use and note each batch's statistics; all else is evaluating."""
    modes = {module: module.training for module in model.modules()}
    norms = _learning_norms(model)
    handles = []

    def note(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        found.setdefault(norm, Moments()).add(inputs[0])

    try:
        if not norms:
            raise ValueError(
                "this model has no batch norm whose statistics could be recomputed: its norms are frozen, of another "
                "kind, or there are none"
            )
        model.eval()
        for norm in norms:
            handles.append(norm.register_forward_pre_hook(note))
            norm.training, norm.track_running_stats = True, False  # the running statistics are not touched meanwhile
        yield
    finally:
        for handle in handles:
            handle.remove()
        for norm in norms:
            norm.track_running_stats = True
        for module, mode in modes.items():
            module.training = mode


def _learning_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that train() puts into training mode; those of frozen stages stay in evaluation mode."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    return [norm for norm in norms if norm.track_running_stats]


def _replace(model: nn.Module, found: dict[_BatchNorm, Moments]) -> None:
    new: list[tuple[Tensor, Tensor]] = []
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm) or module not in found:
            continue
        moments = found[module]
        assert moments.mean is not None and moments.squares is not None
        variance = moments.squares / moments.count
        if not (moments.mean.isfinite().all() and variance.isfinite().all()):
            raise ValueError(f"the statistics of {name} are not finite: check the weights, or use precision float32")
        assert module.running_mean is not None and module.running_var is not None
        new += [(module.running_mean, moments.mean), (module.running_var, variance)]
    for buffer, value in new:
        buffer.copy_(value)
