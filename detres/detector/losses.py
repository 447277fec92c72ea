"""Box regression losses: on deltas (L1, smooth L1) or on decoded boxes (GIoU, DIoU, CIoU).

Shapes: any leading dimensions; the last one is 4.
"""

import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from detres.detector.box_coder import BoxCoder
from detres.structures.constants import constant

IOU_LOSSES = {
    "giou": generalized_box_iou_loss,  # Rezatofighi et al., 2019
    "diou": distance_box_iou_loss,  # Zheng et al., 2020
    "ciou": complete_box_iou_loss,
}


def smooth_l1(difference: Tensor, beta: float) -> Tensor:
    """Elementwise 0.5 d^2 / beta below `beta`, |d| - 0.5 beta above (Girshick, 2015); beta 0 is L1."""
    size = difference.abs()
    if beta < 1e-5:
        return size
    return torch.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)


class BoxLoss:
    """The summed loss of predicted deltas. kind: "l1", "smooth_l1" (with `beta`), "giou", "diou" or "ciou"."""

    def __init__(self, coder: BoxCoder, kind: str = "l1", beta: float = 0.0) -> None:
        if kind not in ("l1", "smooth_l1", *IOU_LOSSES):
            raise ValueError(f"box_loss must be one of l1, smooth_l1, {', '.join(IOU_LOSSES)}; got {kind!r}")
        self.coder, self.kind, self.beta = coder, kind, 0.0 if kind == "l1" else beta

    def __call__(self, deltas: Tensor, references: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        """Scalar: the loss of `deltas` (..., 4) on `references` against the boxes `targets`, where `weight` (...) > 0.

        What lies where the weight is zero (padding, background) may hold anything and adds nothing.
        """
        return self.each(deltas, references, targets, weight).sum()

    def each(self, deltas: Tensor, references: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        """The same before it is summed: (...)."""
        chosen = weight > 0
        references = torch.where(chosen[..., None], references, constant((0.0, 0.0, 1.0, 1.0), references.device))
        targets = torch.where(chosen[..., None], targets, references)
        deltas = torch.where(chosen[..., None], deltas.float(), torch.zeros_like(deltas, dtype=torch.float32))
        if self.kind in IOU_LOSSES:
            loss = IOU_LOSSES[self.kind](self.coder.decode(deltas, references), targets)
        else:
            loss = smooth_l1(deltas - self.coder.encode(targets, references), self.beta).sum(dim=-1)
        return loss * weight
