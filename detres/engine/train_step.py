"""One training step: the gradient of a batch, part by part, and the update that it makes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from detres.engine.distributed import interleave, pad_alike
from detres.engine.loss_monitor import total_loss
from detres.engine.out_of_memory import (
    StepOutOfMemory,
    buffers_of,
    describe_shortage,
    is_out_of_memory,
    restore_buffers,
    split_batch,
    updates_statistics,
)
from detres.engine.precision import Precision
from detres.engine.records import TrainerSettings
from detres.engine.transfer import Transfer
from detres.structures import Batch
from detres.structures.processes import ALONE, Processes, one_batch
from detres.structures.random import derive_seed

Losses = dict[str, Tensor]

_NAMES = signature(DistributedDataParallel).parameters
_BUFFERS_STAY: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False  # the older name
}


class TrainStep:
    """`gradients` of the parts of a batch, then `update`; whoever trains looks at the losses in between.

    `model(images, targets)` returns named values; those named loss... are minimised. The model moves to `device`.
    With several `processes` each computes its share of the batch, and all make the same update.
    With settings.split_on_oom, `pieces` tells into how many each part of the last step had to be split (one process).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        settings: TrainerSettings,
        device: torch.device | str = "cpu",
        *,
        processes: Processes = ALONE,
    ) -> None:
        assert processes.world_size == 1 or not settings.split_on_oom, "the others would wait for the one that splits"
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.channels_last = _wants_channels_last(settings, self.device)
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.optimizer, self.settings = optimizer, settings
        self.precision = Precision(settings.precision, self.device)
        self._transfer = Transfer(self.device)
        self.pieces = 1
        self.processes = processes
        self._shared = None
        if processes.world_size > 1:  # from here on all have the weights of the main process
            self._shared = DistributedDataParallel(model, **_BUFFERS_STAY)
        whole = model if self._shared is None else self._shared
        self._forward: Callable[..., Losses] = torch.compile(whole) if settings.compile else whole
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def gradients(self, number: int, batches: Sequence[Batch]) -> tuple[list[Losses], Tensor]:
        """Compute the gradient of step `number` (from 1): the mean over its parts, of which these are `batches`.

        Returns the values of the model for each part, those of other processes included, in the order of the step's
        images, and the norm () of the gradient before clipping. Raises StepOutOfMemory where no smaller part is
        allowed, or left.
        """
        buffers = buffers_of(self.model) if self.settings.split_on_oom else []
        self.pieces = 1
        whole = self.settings.across_processes == "whole"
        batches = pad_alike(self.processes, batches) if whole else batches
        while True:
            try:
                with one_batch(self.processes if whole else ALONE):
                    losses = self._accumulate(number, batches)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                shortage = str(error)
            # Here, not in the handler: until that ends, the error's traceback holds the tensors of the step.
            self._make_room(buffers)
            largest = max(batches, key=lambda batch: batch.images.pixels.numel())
            if not self.settings.split_on_oom or self.pieces >= max(map(len, batches)):
                may_split = not self.settings.split_on_oom
                message = describe_shortage(number, largest, len(batches), shortage, may_split)
                raise StepOutOfMemory(message, bool(buffers) or not updates_statistics(self.model))
            self.pieces *= 2
        self._average_statistics()
        self.precision.scaler.unscale_(self.optimizer)
        return self._of_all(losses), self._clip_gradients()

    def update(self) -> None:
        """Change the weights by the gradients computed last."""
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()

    def _accumulate(self, number: int, batches: Sequence[Batch]) -> list[Losses]:
        """Add up the gradients of all parts, each in `pieces`; returns the values of each part."""
        rank = self.processes.rank
        # dropout: keyed, so a resumed run repeats it
        torch.manual_seed(derive_seed(self.settings.seed, number, *([rank] if rank else [])))
        losses: list[Losses] = []
        for batch in batches:
            pieces = split_batch(batch, self.pieces) if self.pieces > 1 else [batch]
            found: list[Losses] = []
            for piece in pieces:
                divisor = len(batches) * len(batch) / len(piece)
                with self._sums_up(is_last=len(losses) == len(batches) - 1):
                    found.append(self._backward(piece, divisor, is_first=not losses and not found))
            losses.append(found[0] if len(pieces) == 1 else _mean(found, [len(p) / len(batch) for p in pieces]))
        return losses

    def _backward(self, batch: Batch, divisor: float, is_first: bool) -> Losses:
        """Add the gradient of the loss of some images, divided by `divisor`; returns the values of the model."""
        on_device = self._to_device(batch)
        with self.precision.autocast():
            values = self._forward(on_device.images, on_device.targets)
            total = total_loss(values)
        if is_first:  # not sooner: the new gradients take the old ones' memory, still warm
            self.optimizer.zero_grad(set_to_none=True)
        self.precision.scaler.scale(total / divisor).backward()
        return values

    def _sums_up(self, is_last: bool) -> AbstractContextManager[None]:
        """The processes' gradients meet once a step, in the backward pass of its last part."""
        return nullcontext() if self._shared is None or is_last else self._shared.no_sync()

    def _of_all(self, losses: list[Losses]) -> list[Losses]:
        """The values of all processes' parts; so they log the same, and stop together when one is not finite."""
        if self.processes.world_size == 1:
            return losses
        own = torch.stack([torch.stack([value.detach().float() for value in part.values()]) for part in losses])
        by_rank = self.processes.stack(own)
        return [dict(zip(losses[0], part, strict=True)) for part in interleave([list(parts) for parts in by_rank])]

    @torch.no_grad()
    def _average_statistics(self) -> None:
        """Give all processes the mean of the running statistics of norms that see their own share alone."""
        if self.processes.world_size == 1:
            return
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm) and module.training]
        own = [norm for norm in norms if not getattr(norm, "is_synchronised", isinstance(norm, nn.SyncBatchNorm))]
        buffers = [buffer for norm in own for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
        if buffers:
            mean = self.processes.sum(torch.cat(buffers)) / self.processes.world_size
            for buffer, value in zip(buffers, mean.split([len(buffer) for buffer in buffers]), strict=True):
                buffer.copy_(value)

    def _make_room(self, buffers: list[Tensor]) -> None:
        """Drop what a failed attempt left behind."""
        self.optimizer.zero_grad(set_to_none=True)
        if buffers:
            restore_buffers(self.model, buffers)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _to_device(self, batch: Batch) -> Batch:
        batch = self._transfer(batch)
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        pixels = batch.images.pixels.contiguous(memory_format=memory_format)
        return replace(batch, images=replace(batch.images, pixels=pixels))

    def _clip_gradients(self) -> Tensor:
        """The norm of the whole gradient, which is then shortened to `clip_grad_norm`."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.settings.clip_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.settings.clip_grad_norm, norm)
        return norm.detach()


def _wants_channels_last(settings: TrainerSettings, device: torch.device) -> bool:
    """As set; "auto" is where the kernels are faster for it: CPUs always, GPUs in half precision (tensor cores)."""
    if settings.channels_last == "auto":
        return device.type == "cpu" or settings.precision != "float32"
    return settings.channels_last


def _mean(pieces: Sequence[Losses], shares: Sequence[float]) -> Losses:
    """The mean of each value, weighted by the pieces' shares of the images."""
    weighted = [{n: v.detach().float() * share for n, v in p.items()} for p, share in zip(pieces, shares, strict=True)]
    return {name: torch.stack([piece[name] for piece in weighted]).sum() for name in weighted[0]}
