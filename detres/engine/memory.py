"""How much memory there is, and how much of it a training step takes."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU_SHARE = 0.9
"""Of the memory of a GPU that is free, what a step may take: the allocator's gaps and the evaluation need some too."""

HOST_SHARE = 0.5
"""Of the computer's free memory, what a step may take: kernels' workspaces are not counted, other programs live on."""

Step = Callable[[int, int], None]
"""Trains one step on so many images in each of so many parts; gradients and the optimizer's state stay behind."""


def fits_on_gpu(step: Step, device: torch.device) -> Callable[[int], bool]:
    """Whether real steps, with parts of n images, fit into GPU_SHARE of the GPU's free memory.

    Each question trains two steps of two parts: the first brings the optimizer's state into being, and the second part
    of a step finds the gradients of the first. Written for CUDA, and tested with a stand-in for torch.cuda only.
    """
    free, _ = torch.cuda.mem_get_info(device)
    budget = GPU_SHARE * (free + torch.cuda.memory_reserved(device))

    def fits(images: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            step(images, 2)
            step(images, 2)
            torch.cuda.synchronize(device)
            within = torch.cuda.max_memory_reserved(device) <= budget
        except torch.cuda.OutOfMemoryError:
            within = False
        # Here, not in the handler: until that ends, the error's traceback holds the tensors of the step.
        gc.collect()
        torch.cuda.empty_cache()
        return within

    return fits


def fits_on_host(step: Step, free_bytes: float) -> Callable[[int], bool]:
    """Whether a step with parts of n images takes at most HOST_SHARE of `free_bytes`, going by two and three images.

    The tensors of a step are counted, which is the same on every machine; a step grows by as much with each image.
    """
    peaks = {}
    with TensorCounter() as counter:
        for images in (2, 2, 3):  # the first brings the optimizer's state into being
            counter.start_peak()
            step(images, 1)
            peaks[images] = counter.peak
    image = peaks[3] - peaks[2]
    return lambda images: peaks[2] + (images - 2) * image <= HOST_SHARE * free_bytes


def free_host_memory(root: Path = Path("/")) -> float:
    """Bytes that a program may still take: of the machine, and of the container (cgroup) that it runs in.

    Where the system does not say, half of all its memory. Raises ValueError when that is not known either.
    """
    limits = [*_free_of_machine(root), *_free_of_container(root / "sys/fs/cgroup")]
    if limits:
        return min(limits)
    with suppress(ValueError, OSError, AttributeError):  # macOS
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    raise ValueError("this system does not tell how much memory it has")


def _free_of_machine(root: Path) -> Iterator[float]:
    with suppress(OSError, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        yield from (1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _free_of_container(folder: Path) -> Iterator[float]:
    """Of a memory cgroup, version 2 or 1; its file cache counts as free, because it gives way."""
    for place, limit, usage, cache in (
        (folder, "memory.max", "memory.current", "inactive_file"),
        (folder / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError, KeyError):  # ValueError: "max", no limit
            most, used = (int((place / name).read_text(encoding="ascii")) for name in (limit, usage))
            stat = dict(line.split() for line in (place / "memory.stat").read_text(encoding="ascii").splitlines())
            yield max(float(most - used + int(stat[cache])), 0.0)


class TensorCounter(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is active, in the backward pass too.

    `peak` is the most of them at one time. What kernels take for themselves meanwhile is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._bytes = 0  # at least those of the living: the dead are taken off when it matters
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def start_peak(self) -> None:
        """Measure the peak from here on."""
        self._bury()
        self.peak = self._bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return out

    def _note(self, tensor: Tensor) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        if reference.cdata in self._storages:  # never another's address: our reference keeps it taken
            return
        size = tensor.untyped_storage().nbytes()
        self._storages[reference.cdata] = (reference, size)
        self._bytes += size
        if self._bytes > self.peak:
            self._bury()
            self.peak = max(self.peak, self._bytes)

    def _bury(self) -> None:
        self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
        self._bytes = sum(size for _, size in self._storages.values())
