"""BoxCoder: boxes as offsets from reference boxes, and back (Girshick et al., 2014, appendix C)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detres.structures.constants import constant

MAX_LOG_SCALE = math.log(1000.0 / 16)  # exp of a larger dw or dh would overflow; all toolkits clamp here


class BoxCoder:
    """Deltas dx, dy (in widths and heights of the reference) and dw, dh (logarithms), times four `weights`.

    Decoding clamps dw and dh at `max_log_scale`, with `symmetric_clamp` (mmdetection) at its negative too.
    """

    def __init__(
        self,
        weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        max_log_scale: float = MAX_LOG_SCALE,
        symmetric_clamp: bool = False,
    ) -> None:
        self.weights, self.max_log_scale, self.symmetric_clamp = tuple(weights), max_log_scale, symmetric_clamp

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Deltas (..., 4) that turn `references` (..., 4) into `boxes` (..., 4)."""
        center, size = _center_and_size(boxes)
        reference_center, reference_size = _center_and_size(references)
        shift = (center - reference_center) / reference_size
        scale = torch.log(size / reference_size)
        return torch.cat([shift, scale], dim=-1) * constant(self.weights, boxes.device).to(boxes.dtype)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Boxes (..., 4) from `deltas` (..., 4) and `references` (..., 4); leading dimensions broadcast."""
        deltas = deltas.float() / constant(self.weights, deltas.device)
        reference_center, reference_size = _center_and_size(references.float())
        center = deltas[..., :2] * reference_size + reference_center
        least = -self.max_log_scale if self.symmetric_clamp else None
        half = 0.5 * torch.exp(deltas[..., 2:].clamp(min=least, max=self.max_log_scale)) * reference_size
        return torch.cat([center - half, center + half], dim=-1)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size
