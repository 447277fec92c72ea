"""Online hard example mining (Shrivastava et al., 2016): learn from the regions of which the network knows least.

Shapes: N images, B regions per image, S chosen regions per image.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from detres.detector.target_assignment import IGNORED, POSITIVE, Sample
from detres.layers.nms import survivors


@torch.no_grad()
def hardest(losses: Tensor, boxes: Tensor, labels: Tensor, batch_size: int, nms_iou: float = 0.7) -> Sample:
    """Choose up to `batch_size` boxes per image, those of the largest losses, whatever their label (section 4).

    losses (N, B), boxes (N, B, 4), labels (N, B) as in Assignment: ignored ones are never chosen. NMS by loss at
    `nms_iou` comes first: overlapping regions would count the same mistake again and again. S is min(batch_size, B).
    """
    kept = survivors(boxes, losses, torch.zeros_like(labels), labels != IGNORED, nms_iou)
    order = losses.masked_fill(~kept, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    index = order[:, : min(batch_size, labels.shape[1])]
    valid = kept.gather(1, index)
    return Sample(index, valid & (labels.gather(1, index) == POSITIVE), valid)


@contextmanager
def only_looking(*modules: nn.Module) -> Iterator[None]:
    """Inside the block the modules run as at test time, without gradient, and no norm's statistics move."""
    modes = {part: part.training for module in modules for part in module.modules()}
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
