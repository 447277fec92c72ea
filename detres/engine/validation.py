"""The loss on images that are not trained on."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from detres.engine.loss_monitor import is_loss
from detres.engine.precision import Precision, PrecisionName
from detres.structures import Batch
from detres.structures.processes import ALONE, Processes


@torch.no_grad()
def validation_losses(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | str,
    precision: PrecisionName = "float32",
    processes: Processes = ALONE,
) -> dict[str, float | None]:
    """Mean of each loss term over the images of `batches`, with norms and dropout as in evaluation.

    Without any batch the total, "loss", is None. The model's mode is restored afterwards. A batch with a replacement
    for an image that could not be read (Batch.skipped) is left out: some other image would count twice.
    `batches` may be this process's share, in order: all `processes` get the means over all of them, to the last bit
    those of one process.
    """
    device = torch.device(device)
    autocast = Precision(precision, device).autocast
    found: list[tuple[int, dict[str, Tensor]]] = []
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            if batch.skipped:
                continue
            on_device = batch.to(device)
            with autocast():
                losses = model(on_device.images, on_device.targets)
            found.append((len(batch), {name: value.float() * len(batch) for name, value in losses.items()}))
    finally:
        model.train(was_training)
    own = [(number, {name: value.cpu() for name, value in losses.items()}) for number, losses in found]
    sums: dict[str, Tensor] = {}
    count = 0
    for number, losses in (each for share in processes.gather(own) for each in share):
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros(())) + value
        count += number
    means: dict[str, float | None] = {name: float(value) / count for name, value in sums.items()}
    total = sum(value for name, value in means.items() if value is not None and is_loss(name))
    return {"loss": total if count else None, **means}
