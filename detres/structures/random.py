"""Randomness that is keyed, not streamed: the same key gives the same numbers on every device, worker and restart."""

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: int) -> int:
    """The splitmix64 finaliser (Steele, Lea and Flood, 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def derive_seed(*parts: int) -> int:
    """A seed in [0, 2^63) made of integers, for instance (run seed, epoch, image): order matters."""
    state = 0
    for part in parts:
        state = _mix((state + _GOLDEN + (part & _MASK)) & _MASK)
    return state >> 1


def keyed_uniform(seeds: Tensor, count: int) -> Tensor:
    """Uniform float32 numbers (N, count) in [0, 1): row i depends on seeds[i] alone. `seeds` is (N,) int64.

    A counter-based generator of 32-bit integer mixes (xorshift-multiply), the same on CPU and GPU and
    without a state to save or a value to copy to the host.
    """
    low = (seeds ^ (seeds >> 32)) & 0xFFFFFFFF
    counter = torch.arange(count, device=seeds.device, dtype=torch.int64)
    x = (low[:, None] + counter[None, :] * 0x9E3779B1) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x2C1B3C6D)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return (x >> 8).to(torch.float32) * (1.0 / (1 << 24))
