"""Writing a model's tensors by another convention: the background's row of the head, the order of the channels.

K classes. `cls_score` has K + 1 rows; `bbox_pred` 4 (K + 1) with the background first (torchvision), 4 K with it last
(detectron2, mmdetection).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detres.weights.head import describe_head, head_part
from detres.weights.report import WeightsError

_FIRST = [f"backbone.{body}{conv}.weight" for body in ("", "body.") for conv in ("conv1", "conv1.0")]


def require_plain_heads(model: Mapping[str, Any], format: str) -> None:
    """Raise WeightsError when a detector's second stage, by its settings `model`, has parts that no format has."""
    heads = model.get("roi_heads") or {}
    for key in ("cascade", "global_context"):
        if heads.get(key):
            raise WeightsError(
                f"model.roi_heads.{key}: detres does not write such heads as {format}; keep the detres checkpoint, or "
                f"train a detector without it"
            )


def with_background(state: Mapping[str, Tensor], place: str, now: str | None = None) -> dict[str, Tensor]:
    """A detector's state dict (detres's names) with its background "first" or "last"; any other one as it is.

    now: where it stands; None: as the shapes tell, which those of class-agnostic regression do not (taken for last).
    To last, the background's four rows of deltas, which nothing uses, are dropped; to first, they come in as zeros.
    """
    head = describe_head(state, background=now)
    if head is None or head.background is None or head.background == place:
        return dict(state)
    return {key: _moved(key, tensor, place, head.agnostic) for key, tensor in state.items()}


def with_turned_channels(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network for BGR pixels as the same one for RGB pixels, or back: its first convolution's inputs in reverse."""
    return {key: tensor.flip(1) if key in _FIRST else tensor for key, tensor in state.items()}


def _moved(key: str, tensor: Tensor, place: str, agnostic: bool) -> Tensor:
    match head_part(key):
        case "cls_score":
            return tensor.roll(1 if place == "first" else -1, dims=0)
        case "bbox_pred" if not agnostic:
            return torch.cat([torch.zeros_like(tensor[:4]), tensor]) if place == "first" else tensor[4:].clone()
    return tensor
