"""How fast this machine can compute at all: the rates of a large convolution and of a large matrix product.

Rates are in floating-point operations a second, two for each multiply-add.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detres.engine.allocator import use_allocator
from detres.jobs.benchmark.timing import clock

_REPEATS = 5
_SIZES = {  # batch, height and width of the convolution of 256 channels by 3 x 3; side of the matrices; times in a row
    "cpu": (1, 200, 272, 2048, 1),  # the largest of an RPN at 800 x 1088
    "cuda": (16, 200, 272, 8192, 10),
}
_CHANNELS = 256


class Ceilings:
    """The rates of a device in each number format that was measured; measuring again keeps what is higher.

    Something else may have used the machine just then, and a ceiling is what it can do.
    """

    def __init__(self, device: torch.device, progress: Callable[[str], None] = print) -> None:
        self._device, self._progress = device, progress
        self.rates: dict[str, dict[str, float]] = {}

    def measure(self, precision: str) -> None:
        """Measure "convolution" and "matrix product" in a number format, once more if it was done before."""
        found = _measure(self._device, getattr(torch, precision))
        known = self.rates.get(precision, found)
        self.rates[precision] = {what: max(rate, known[what]) for what, rate in found.items()}
        shown = ", ".join(f"{what} {rate / 1e9:.0f} GFLOP/s" for what, rate in self.rates[precision].items())
        self._progress(f"ceiling of this machine in {precision}: {shown}")

    def share(self, operations: float, seconds: float, precision: str) -> float:
        """How much of the higher of both rates `operations` done in `seconds` are."""
        return operations / seconds / max(self.rates[precision].values())


def measure_rate(step: Callable[[], Any], operations: float, read: Callable[[], float], repeats: int) -> float:
    """Operations a second of `step` in the fastest of `repeats`, after one unmeasured time; `read` is the clock."""
    step()
    fastest = float("inf")
    for _ in range(repeats):
        started = read()
        step()
        fastest = min(fastest, read() - started)
    return operations / fastest


@torch.no_grad()
def _measure(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    use_allocator("tuned")
    batch, height, width, side, times = _SIZES.get(device.type, _SIZES["cpu"])
    pixels = torch.randn(batch, _CHANNELS, height, width, device=device, dtype=dtype)
    weight = torch.randn(_CHANNELS, _CHANNELS, 3, 3, device=device, dtype=dtype)
    matrices = torch.randn(2, side, side, device=device, dtype=dtype)

    def rate(step: Callable[[], Tensor], operations: float) -> float:
        return measure_rate(lambda: [step() for _ in range(times)], times * operations, lambda: clock(device), _REPEATS)

    of_convolution = 2 * batch * height * width * _CHANNELS * _CHANNELS * 9
    layouts: Mapping[str, torch.memory_format] = {
        "planes": torch.contiguous_format,
        "channels last": torch.channels_last,
    }
    convolutions = []
    for layout in layouts.values():
        x, w = pixels.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
        convolutions.append(rate(lambda x=x, w=w: F.conv2d(x, w, padding=1), of_convolution))  # type: ignore[misc]
    product = rate(lambda: matrices[0] @ matrices[1], 2 * side**3)
    return {"convolution": max(convolutions), "matrix product": product}
