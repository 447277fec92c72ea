"""Loaders: batches for training without end, and for evaluation once in order; read by worker processes.

A batch depends on its keys alone, so the number of workers changes nothing but the speed. Whatever goes wrong in a
worker arrives here as one clear error: bad input as the error that describes it, a dead or hung worker as
WorkerError.
"""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from detres.data.decoding import load_libraries
from detres.data.sampler import TrainSampler
from detres.data.samples import SampleKey, TransformedSamples
from detres.structures import Batch


class TrainLoader:
    """Endless training batches.

    samples  a TransformedDetectionDataset or TransformedClassificationDataset
    workers   processes that read ahead; 0: read in this process
    timeout   seconds without a batch after which loading is an error
    prefetch  how many batches each worker has ready
    restarts  how often in a stream the workers are replaced when one has died or hangs, before that is an error
    """

    def __init__(
        self,
        samples: TransformedSamples,
        sampler: TrainSampler,
        *,
        size_divisibility: int = 32,
        workers: int = 0,
        timeout: float = 300.0,
        prefetch: int = 2,
        restarts: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self._reader, self._sampler = _Reader(samples, size_divisibility), sampler
        self._restarts = restarts
        self._options = _options(workers, timeout, prefetch, pin_memory)

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every image comes once; not whole when the batch size does not divide their number."""
        return self._sampler.epoch_size / self._sampler.batch_size

    def stream(self, start_sample: int = 0) -> Iterator[Batch]:
        """Micro-batches from sample number `start_sample` on. Close the iterator to end its workers.

        Raises what is wrong with the data as ValueError, and WorkerError.
        """
        given, restarts = 0, 0
        while True:
            keys = _Keys(self._sampler, start_sample, given)
            try:
                for batch in _checked(iter(DataLoader(self._reader, sampler=keys, **self._options))):
                    given += 1
                    yield batch
            except WorkerError as error:
                if restarts == self._restarts:
                    raise
                restarts += 1
                warnings.warn(f"{error}. Starting new workers ({restarts} of {self._restarts} times)", stacklevel=2)


class EvalLoader:
    """Every image once, in order; iterate as often as wanted. Settings as for TrainLoader."""

    def __init__(
        self,
        samples: TransformedSamples,
        batch_size: int = 1,
        *,
        size_divisibility: int = 32,
        workers: int = 0,
        timeout: float = 300.0,
        prefetch: int = 2,
        pin_memory: bool = False,
    ) -> None:
        keys = [SampleKey(i, 0, i) for i in range(len(samples))]
        self._batches = [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
        self._reader = _Reader(samples, size_divisibility)
        self._options = _options(workers, timeout, prefetch, pin_memory)

    def __len__(self) -> int:
        return len(self._batches)

    def share(self, rank: int, world_size: int) -> tuple["EvalLoader", int]:
        """The batches of one of `world_size` processes, in order, and the place of their first image in the set."""
        first, end = (len(self._batches) * r // world_size for r in (rank, rank + 1))
        part = copy(self)
        part._batches = self._batches[first:end]
        return part, sum(map(len, self._batches[:first]))

    def __iter__(self) -> Iterator[Batch]:
        # New workers every time: forking is quick, and idle ones would hold memory through the training between.
        yield from _checked(iter(DataLoader(self._reader, sampler=self._batches, **self._options)))


class WorkerError(RuntimeError):
    """A process that reads data died, or has not answered for too long."""


class _Failure:
    """An error made of bad input, on its way from a worker: torch would wrap it in a traceback."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Reader(torch.utils.data.Dataset[Any]):
    """Turns a list of keys into a batch; runs in the workers."""

    def __init__(self, samples: TransformedSamples, size_divisibility: int) -> None:
        self._samples, self._size_divisibility = samples, size_divisibility

    def __getitem__(self, keys: Sequence[SampleKey]) -> Batch | _Failure:
        try:
            return self._samples.collate([self._samples[key] for key in keys], self._size_divisibility)
        except ValueError as error:
            return _Failure(error)


class _Keys:
    """The sampler's stream from one position on, `given` micro-batches excepted, as torch's DataLoader wants it."""

    def __init__(self, sampler: TrainSampler, start_sample: int, given: int) -> None:
        self._sampler, self._start, self._given = sampler, start_sample, given

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return islice(self._sampler.batches(self._start), self._given, None)


def _options(workers: int, timeout: float, prefetch: int, pin_memory: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "batch_size": None,  # the sampler yields whole batches
        "collate_fn": _as_it_is,
        "num_workers": workers,
        "pin_memory": pin_memory,
        "generator": torch.Generator(),  # else torch takes a number from the global generator at each start
    }
    if workers > 0:
        load_libraries()  # here, not in every worker
        # With fork the workers share the annotations' memory; Python 3.14 no longer forks by itself.
        method = "fork" if sys.platform == "linux" else multiprocessing.get_start_method()
        options |= {"timeout": timeout, "multiprocessing_context": method, "worker_init_fn": _start_worker}
        options["prefetch_factor"] = prefetch
    return options


def _as_it_is(value: Any) -> Any:
    return value


def _start_worker(_: int) -> None:
    """One thread per worker, and a process group of its own: Ctrl-C is for the trainer, which then ends its workers."""
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(0)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def _checked(batches: Iterable[Any]) -> Iterator[Batch]:
    """The batches; failures raised, and torch's messages about its workers made clear."""
    iterator = iter(batches)
    _defer_worker_deaths()
    while True:
        try:
            _require_all_alive(iterator)
            with _batch_awaited():
                batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader "):
                raise
            raise WorkerError(
                f"a data loading worker died or hung: {error}. Often memory or shared memory (/dev/shm) ran out: use "
                "fewer data.workers; data.workers=0 shows an error where it happens, and data.worker_timeout sets "
                "how long to wait"
            ) from error
        if isinstance(batch, _Failure):
            raise batch.error
        yield batch


def _require_all_alive(iterator: Any) -> None:
    """Raise for a worker that has ended: torch waits for one in vain if anything else has asked for its exit code."""
    ended = [worker for worker in getattr(iterator, "_workers", ()) if worker.exitcode is not None]
    if ended:
        codes = ", ".join(f"pid {worker.pid}: exit code {worker.exitcode}" for worker in ended)
        raise RuntimeError(f"DataLoader worker ended by itself or was killed ({codes})")


_awaited = False
"""Whether a batch is being waited for, the only time at which a worker's death may raise."""


def _defer_worker_deaths() -> None:
    """Let a worker's death raise where a batch is awaited, and nowhere else.

    torch raises from a SIGCHLD handler, in whatever line the program is: in the middle of an optimizer step too, after
    which there would be no whole state to save.
    """
    torchs_handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    if not callable(torchs_handler) or getattr(torchs_handler, "is_deferred", False):
        return

    def handler(number: int, frame: Any) -> None:
        if _awaited:
            torchs_handler(number, frame)

    handler.is_deferred = True  # type: ignore[attr-defined]
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def _batch_awaited() -> Iterator[None]:
    global _awaited
    _awaited = True
    try:
        torch._C._error_if_any_worker_fails()  # one that died meanwhile
        yield
    finally:
        _awaited = False
