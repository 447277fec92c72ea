"""Processes that train or evaluate together, as the rooms of the package see them; one process alone is the usual case.

detres.engine.distributed makes them out of torch.distributed. Shapes: N images of this process's share of a batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Processes(Protocol):
    """What one process asks of the others. All of them must ask the same things in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process, 0 ... world_size - 1. Process 0 is the main one: it alone writes and speaks."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    def gather(self, value: T) -> list[T]:
        """The plain values of all processes, by rank."""

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns in the main process, in all of them; if it fails there, all fail."""

    def stack(self, value: Tensor) -> Tensor:
        """The tensors (...) of all processes, of one shape, by rank: (world_size, ...), on their device."""

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""


class OneProcess:
    """No others: every answer is one's own."""

    rank = 0
    world_size = 1

    def gather(self, value: T) -> list[T]:
        """The value alone."""
        return [value]

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns."""
        return make()

    def stack(self, value: Tensor) -> Tensor:
        """The tensor alone."""
        return value[None]

    def sum(self, value: Tensor) -> Tensor:
        """The tensor itself."""
        return value


ALONE = OneProcess()

_sharing: Processes = ALONE


@contextmanager
def one_batch(processes: Processes) -> Iterator[None]:
    """Within this block (forward and backward) what the processes compute are shares of one batch.

    Not a context variable: on a GPU the backward pass, which may repeat parts of the forward one, has its own threads.
    """
    global _sharing
    before, _sharing = _sharing, processes
    try:
        yield
    finally:
        _sharing = before


def batch_count(count: Tensor) -> Tensor:
    """The number () that a sum over this process's share is divided by, when `count` terms were added up in it.

    With processes that share a batch, their count over the whole batch divided by the number of processes: the mean
    of the shares' losses, and so of their gradients, is then what one process would get for the whole batch.
    """
    if _sharing.world_size == 1:
        return count.clamp(min=1)
    return _sharing.sum(count.detach().float()).clamp(min=1) / _sharing.world_size


def next_in_batch(values: Tensor) -> Tensor:
    """For every image of `values` (N, ...) the value of the next image of the batch; the last one's is the first's."""
    if _sharing.world_size == 1:
        return values.roll(-1, dims=0)
    firsts = _sharing.stack(values[:1])
    return torch.cat([values[1:], firsts[(_sharing.rank + 1) % _sharing.world_size]])
