"""One training step: the gradient of a batch, part by part, and the update that it makes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detres.engine.loss_monitor import total_loss
from detres.engine.precision import Precision
from detres.engine.records import TrainerSettings
from detres.structures import Batch
from detres.structures.random import derive_seed


class TrainStep:
    """`gradients` of the parts of a batch, then `update`; whoever trains looks at the losses in between.

    `model(images, targets)` returns named values; those named loss... are minimised. The model moves to `device`.
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
        self._forward: Callable[..., dict[str, Tensor]] = torch.compile(model) if settings.compile else model
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def gradients(self, number: int, batches: Sequence[Batch]) -> tuple[list[dict[str, Tensor]], Tensor]:
        """Compute the gradient of step `number` (from 1): the mean over its parts `batches`.

        Returns the values of the model for each part, and the norm () of the gradient before clipping.
        """
        torch.manual_seed(derive_seed(self.settings.seed, number))  # dropout: keyed, so a resumed run repeats it
        losses = []
        for batch in batches:
            on_device = self._to_device(batch)
            with self.precision.autocast():
                losses.append(self._forward(on_device.images, on_device.targets))
                total = total_loss(losses[-1])
            if len(losses) == 1:  # not sooner: the new gradients take the old ones' memory, still warm
                self.optimizer.zero_grad(set_to_none=True)
            self.precision.scaler.scale(total / len(batches)).backward()
        self.precision.scaler.unscale_(self.optimizer)
        return losses, self._clip_gradients()

    def update(self) -> None:
        """Change the weights by the gradients computed last."""
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()

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
