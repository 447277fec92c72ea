"""Processes started by torchrun, on one machine or many: how they find each other, what they agree on.

gloo on CPUs and for plain values, NCCL between GPUs. A process that fails ends; torchrun then ends the others, and
starts all again as often as --max-restarts allows.
"""

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from detres.engine.interruption import Interruption
from detres.structures import Batch
from detres.structures.processes import ALONE, Processes

T = TypeVar("T")
N = TypeVar("N")

_PATIENCE = timedelta(minutes=30)  # main alone loads weights and computes metrics, while the others wait
_MEETING = "detres/meeting"
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class OtherProcessFailed(RuntimeError):
    """Another process met an error, which it tells of itself; this one stops for that alone."""

    is_everywhere = True


class ProcessGroup:
    """The processes of torch.distributed, as detres.structures.processes describes them."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._interruption: Interruption | None = None

    def gather(self, value: T) -> list[T]:
        """The plain values of all processes, by rank."""
        with self._asking():
            return self._gather(value)

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns in process 0. Raises its error there, and OtherProcessFailed elsewhere."""
        box: list[Any] = [None, None]
        error = None
        with self._asking():
            if self.rank == 0:
                try:
                    box[1] = make()
                except Exception as failed:
                    box[0], error = str(failed), failed
            dist.broadcast_object_list(box, src=0)
        if error is not None:
            raise error
        if box[0] is not None:
            raise OtherProcessFailed(f"stopped, because process 0 failed: {box[0]}")
        made: T = box[1]
        return made

    def stack(self, value: Tensor) -> Tensor:
        """The tensors of all processes, by rank: (world_size, ...)."""
        value = value.contiguous()
        found = [torch.empty_like(value) for _ in range(self.world_size)]
        dist.all_gather(found, value)
        return torch.stack(found)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        value = value.clone()
        dist.all_reduce(value)
        return value

    @contextmanager
    def cut_short_by(self, interruption: Interruption) -> Iterator[None]:
        """See cut_short_together."""
        self._interruption = interruption
        try:
            with interruption.at_once(self._agree):
                yield
        finally:
            self._interruption = None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around what all take part in: raises before it, in all, if any of them has been asked to stop."""
        if self._interruption is None:
            yield
            return
        with self._interruption.held_back():
            self._interruption.check(self._agree)
            yield

    def _agree(self, noted: int) -> int:
        return max(self._gather(noted))

    def _gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found


def cut_short_together(processes: Processes, interruption: Interruption) -> AbstractContextManager[None]:
    """A block in which a signal raises Interrupted in all `processes`: here at once, there at their next question.

    Questions are `gather` and `from_main`. What process 0 makes in the latter is not cut short.
    """
    return processes.cut_short_by(interruption) if isinstance(processes, ProcessGroup) else interruption.at_once()


@contextmanager
def join_processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes of this run, as torchrun's environment tells, and this one's device; alone without torchrun.

    Inside, all but the main process say nothing on standard output. Raises ValueError when the environment is
    incomplete or there are fewer GPUs than processes on this machine.
    """
    if started_processes() == 1:
        yield ALONE, device
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set: use torchrun")
    device = _local_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, count = next(iter(rendezvous("env://", timeout=_PATIENCE)))
    meeting = meet(store, rank, count)
    dist.init_process_group(backend, store=meeting, rank=rank, world_size=count, timeout=_PATIENCE)
    processes = ProcessGroup()
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if processes.rank == 0 else nowhere):
        yield processes, device
        processes.gather(None)  # nobody leaves before all are done
    # Not after an error: to wait for the others then is to hang. The end of this process tells them.
    dist.destroy_process_group()


def meet(store: Any, rank: int, world_size: int) -> Any:
    """The part of a store that belongs to the processes that are here now.

    torchrun's own store outlives its workers: after a restart it still holds the addresses of those that were there
    before, and who is early would try to reach them (pytorch issue 135712). So process 0 opens a meeting under a new
    name, everyone signs in, and only who finds its own signature on the closed list has been at the right one.
    """
    own = secrets.token_hex(8)
    if rank == 0:
        store.set(_MEETING, own)
        others = [store.get(f"{_MEETING}/{own}/{other}").decode() for other in range(1, world_size)]
        store.set(f"{_MEETING}/{own}/closed", " ".join([own, *others]))
        return PrefixStore(f"{_MEETING}/{own}", store)
    end = time.monotonic() + _PATIENCE.total_seconds()
    while time.monotonic() < end:
        name = store.get(_MEETING).decode()
        store.set(f"{_MEETING}/{name}/{rank}", own)
        closed = f"{_MEETING}/{name}/closed"
        if store.check([closed]) and store.get(closed).decode().split()[rank : rank + 1] == [own]:
            return PrefixStore(f"{_MEETING}/{name}", store)
        time.sleep(0.02)
    raise RuntimeError(f"process {rank} of {world_size} waited for process 0 in vain ({_PATIENCE})")


def started_processes() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _local_device(device: torch.device) -> torch.device:
    """This process's own GPU, by its number on this machine."""
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise ValueError(f"device: got {device} with several processes, expected cuda or auto: each takes its own GPU")
    local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= count:
        raise ValueError(
            f"process {local} of this machine has no GPU: torch sees {count}; start at most as many processes "
            f"(torchrun --nproc-per-node {count}), or set device=cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def launch_identity() -> str | None:
    """What stays the same when torchrun starts its processes again: torchrun itself. None without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    agent = os.getppid()
    try:
        started = Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[19]  # numbers come round again
    except (OSError, IndexError):
        started = ""
    return f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {agent} {started}".strip()


def all_succeed(processes: Processes, work: Callable[[], T], note: Callable[[T], N]) -> tuple[T, list[N]]:
    """What `work` returns here, and a note on what it returned in every process, by rank.

    If it fails anywhere it fails everywhere: with its own error there, elsewhere with OtherProcessFailed.
    """
    if processes.world_size == 1:
        made = work()
        return made, [note(made)]
    error = told = None
    try:
        made = work()
        told = note(made)
    except Exception as failed:
        error = failed
    found = processes.gather((told, None if error is None else str(error)))
    if error is not None:
        raise error
    for rank, (_, message) in enumerate(found):
        if message is not None:
            raise OtherProcessFailed(f"stopped, because process {rank} failed: {message}")
    return made, [told for told, _ in found]  # type: ignore[misc]


def interleave(by_rank: Sequence[Sequence[T]]) -> list[T]:
    """The parts of a step in the order of its images: of each micro-batch the shares of all processes, by rank."""
    return [part for shares in zip(*by_rank, strict=True) for part in shares]


def pad_alike(processes: Processes, batches: Sequence[Batch]) -> list[Batch]:
    """The shares of this process's micro-batches, padded as far as the largest share of each."""
    if processes.world_size == 1:
        return list(batches)
    own = torch.tensor([batch.images.pixels.shape[-2:] for batch in batches])
    largest = processes.stack(own).amax(dim=0).tolist()
    return [_padded(batch, height, width) for batch, (height, width) in zip(batches, largest, strict=True)]


def _padded(batch: Batch, height: int, width: int) -> Batch:
    pixels = batch.images.pixels
    below, right = height - pixels.shape[-2], width - pixels.shape[-1]
    if not (below or right):
        return batch
    return replace(batch, images=replace(batch.images, pixels=F.pad(pixels, (0, right, 0, below))))
