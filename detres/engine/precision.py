"""Number formats of training: float32, or mixed precision in bfloat16 or float16 (Micikevicius et al., 2018)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from detres.engine.loss_monitor import NonFiniteLoss

_SMALLEST_SCALE = 1e-6
PrecisionName = Literal["float32", "bfloat16", "float16"]


class Precision:
    """`autocast()` for the forward pass, `scaler` for the backward pass (it scales in float16 only).

    Raises ValueError for a format that the device does not compute in.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        if name not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision {name!r} is unknown, expected float32, bfloat16 or float16")
        if name == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ValueError("this GPU does not compute in bfloat16: set precision to float16 or float32")
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    def gradient_scale(self) -> dict[str, float]:
        """The scale of float16's gradients, by its name in the logs; empty for other formats. Waits for the device.

        Raises NonFiniteLoss when it has fallen to nothing: every step was skipped for overflow.
        """
        if not self.scaler.is_enabled():
            return {}
        scale = self.scaler.get_scale()
        if scale < _SMALLEST_SCALE:
            raise NonFiniteLoss(
                f"the float16 gradients overflow at any loss scale (now {scale:.1g}), so that no step changes the "
                f"weights: set precision to bfloat16 or float32, or lower the learning rate"
            )
        return {"gradient_scale": scale}

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the model and its losses are computed."""
        if self.name == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.name))
