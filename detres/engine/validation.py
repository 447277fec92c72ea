"""The loss on images that are not trained on."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from detres.engine.loss_monitor import is_loss
from detres.engine.precision import Precision, PrecisionName
from detres.structures import Batch


@torch.no_grad()
def validation_losses(
    model: nn.Module, batches: Iterable[Batch], *, device: torch.device | str, precision: PrecisionName = "float32"
) -> dict[str, float | None]:
    """Mean of each loss term over the images of `batches`, with norms and dropout as in evaluation.

    Without any batch the total, "loss", is None. The model's mode is restored afterwards. A batch with a replacement
    for an image that could not be read (Batch.skipped) is left out: some other image would count twice.
    """
    device = torch.device(device)
    autocast = Precision(precision, device).autocast
    sums: dict[str, Tensor] = {}
    count = 0
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            if batch.skipped:
                continue
            on_device = batch.to(device)
            with autocast():
                losses = model(on_device.images, on_device.targets)
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + value.float() * len(batch)
            count += len(batch)
    finally:
        model.train(was_training)
    means: dict[str, float | None] = {name: float(value) / count for name, value in sums.items()}
    total = sum(value for name, value in means.items() if value is not None and is_loss(name))
    return {"loss": total if count else None, **means}
