"""Small constant tensors, made once per device: to make one anew means to wait until a GPU has done all its work."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def constant(values: Sequence[float], device: torch.device) -> Tensor:
    """The numbers as float32 (V,) on the device: one tensor for all who ask, which nobody may change."""
    if torch.compiler.is_compiling():
        return torch.tensor(values, dtype=torch.float32, device=device)  # the compiler keeps it
    return _made_once(tuple(values), device)


@lru_cache(maxsize=256)
def _made_once(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # usable in training afterwards
        return torch.tensor(values, dtype=torch.float32, device=device)
