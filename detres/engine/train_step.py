"""One training step: the gradient of a batch, part by part, and the update that it makes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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
from detres.structures import Batch
from detres.structures.random import derive_seed

Losses = dict[str, Tensor]


class TrainStep:
    """`gradients` of the parts of a batch, then `update`; whoever trains looks at the losses in between.

    `model(images, targets)` returns named values; those named loss... are minimised. The model moves to `device`.
    With settings.split_on_oom, `pieces` tells into how many each part of the last step had to be split.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, settings: TrainerSettings, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.optimizer, self.settings = optimizer, settings
        self.precision = Precision(settings.precision, self.device)
        self.pieces = 1
        self._forward: Callable[..., Losses] = torch.compile(model) if settings.compile else model
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def gradients(self, number: int, batches: Sequence[Batch]) -> tuple[list[Losses], Tensor]:
        """Compute the gradient of step `number` (from 1): the mean over its parts `batches`.

        Returns the values of the model for each part, and the norm () of the gradient before clipping. Raises
        StepOutOfMemory where no smaller part is allowed, or left.
        """
        buffers = buffers_of(self.model) if self.settings.split_on_oom else []
        self.pieces = 1
        while True:
            try:
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
        self.precision.scaler.unscale_(self.optimizer)
        return losses, self._clip_gradients()

    def update(self) -> None:
        """Change the weights by the gradients computed last."""
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()

    def _accumulate(self, number: int, batches: Sequence[Batch]) -> list[Losses]:
        """Add up the gradients of all parts, each in `pieces`; returns the values of each part."""
        torch.manual_seed(derive_seed(self.settings.seed, number))  # dropout: keyed, so a resumed run repeats it
        losses: list[Losses] = []
        for batch in batches:
            pieces = split_batch(batch, self.pieces) if self.pieces > 1 else [batch]
            found: list[Losses] = []
            for piece in pieces:
                on_device = self._to_device(piece)
                with self.precision.autocast():
                    found.append(self._forward(on_device.images, on_device.targets))
                    total = total_loss(found[-1])
                if not losses and len(found) == 1:  # not sooner: the new take the old ones' memory, still warm
                    self.optimizer.zero_grad(set_to_none=True)
                self.precision.scaler.scale(total / (len(batches) * len(batch) / len(piece))).backward()
            losses.append(found[0] if len(pieces) == 1 else _mean(found, [len(p) / len(batch) for p in pieces]))
        return losses

    def _make_room(self, buffers: list[Tensor]) -> None:
        """Drop what a failed attempt left behind."""
        self.optimizer.zero_grad(set_to_none=True)
        if buffers:
            restore_buffers(self.model, buffers)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _to_device(self, batch: Batch) -> Batch:
        batch = batch.to(self.device)
        if not self.settings.channels_last:
            return batch
        pixels = batch.images.pixels.contiguous(memory_format=torch.channels_last)
        return replace(batch, images=replace(batch.images, pixels=pixels))

    def _clip_gradients(self) -> Tensor:
        """The norm of the whole gradient, which is then shortened to `clip_grad_norm`."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.settings.clip_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.settings.clip_grad_norm, norm)
        return norm.detach()


def _mean(pieces: Sequence[Losses], shares: Sequence[float]) -> Losses:
    """The mean of each value, weighted by the pieces' shares of the images."""
    weighted = [{n: v.detach().float() * share for n, v in p.items()} for p, share in zip(pieces, shares, strict=True)]
    return {name: torch.stack([piece[name] for piece in weighted]).sum() for name in weighted[0]}
