"""Several processes for a test: forks that find each other as torchrun's do, and end within a time limit."""

import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch._dynamo  # what the forks would each import, for seconds
import torch.utils.tensorboard

from detres.engine.distributed import join_processes
from detres.structures.processes import Processes

Result = tuple[str, Any]
"""("done", what the function returned), ("failed", the text of its error) or ("ended", exit code)."""


def run_processes(count: int, function: Callable[..., Any], *arguments: Any, limit: float = 150.0) -> list[Result]:
    """Call function(*arguments) in `count` forks with torchrun's variables set; what came of it in each, by rank.

    Fails when they have not ended after `limit` seconds: all are killed then.
    """
    context, port = multiprocessing.get_context("fork"), free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    children = [
        context.Process(target=_run, args=(rank, count, port, pipe[1], function, arguments))
        for rank, pipe in enumerate(pipes)
    ]
    for child in children:
        child.start()
    for _, writing in pipes:
        writing.close()
    try:
        return _results([reading for reading, _ in pipes], children, time.monotonic() + limit)
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
            child.join()


def run_together(count: int, function: Callable[..., Any], *arguments: Any, limit: float = 150.0) -> list[Any]:
    """What function(processes, *arguments) returns in `count` processes that have joined, by rank."""
    return done(run_processes(count, _joined, function, arguments, limit=limit))


def done(results: list[Result]) -> list[Any]:
    """What was returned, where nothing failed."""
    assert [kind for kind, _ in results] == ["done"] * len(results), results
    return [value for _, value in results]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _joined(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with joined() as processes:
        return function(processes, *arguments)


@contextmanager
def joined() -> Iterator[Processes]:
    with join_processes(torch.device("cpu")) as (processes, _):
        yield processes


def _run(
    rank: int, count: int, port: int, pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        pipe.send_bytes(pickle.dumps(("done", function(*arguments))))  # tensors too, and not by shared memory
    except BaseException as error:
        traceback.print_exc()
        pipe.send_bytes(pickle.dumps(("failed", f"{type(error).__name__}: {error}")))
    pipe.close()
    os._exit(0)  # not by way of pytest


def _results(pipes: list[Connection], children: list[Any], end: float) -> list[Result]:
    found: dict[int, Result] = {}
    while len(found) < len(pipes):
        waiting = {pipe: rank for rank, pipe in enumerate(pipes) if rank not in found}
        ready = wait(list(waiting), max(0.0, end - time.monotonic()))
        assert ready, f"processes {sorted(waiting.values())} have not ended in time; the others: {found}"
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = waiting[pipe]
            try:
                found[rank] = pickle.loads(pipe.recv_bytes())
            except EOFError:
                children[rank].join()
                found[rank] = ("ended", children[rank].exitcode)
    return [found[rank] for rank in range(len(pipes))]
