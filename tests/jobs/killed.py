"""Runs `detres train` again and again in child processes that kill themselves, and their whole group, at a given point.

Reads from standard input a list of {"arguments": [...], "kill": null or {"point": ..., "step": ...}}, runs them in this
order and prints the list of how each ended. It is a process group of its own and SIGKILL: nothing is tidied up. One
import serves all children, which are forked before anything has begun.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from detres.cli import main
from detres.engine.checkpoint_writer import CheckpointWriter
from detres.engine.ema import WeightAverage
from detres.engine.metrics_log import MetricsLog
from detres.engine.train_step import TrainStep
from detres.engine.trainer import Trainer
from detres.files import atomic_file
from detres.jobs import train as job


class Killer:
    """Kills its process group when `point` is reached and at least `step` steps are done."""

    def __init__(self, point: str, step: int) -> None:
        self.point, self.step, self.done = point, step, 0

    def reached(self, point: str) -> bool:
        """Whether this is where it is to end."""
        return point == self.point and self.done >= self.step

    def at(self, point: str) -> None:
        """End here, if this is where."""
        if self.reached(point):
            os.killpg(0, signal.SIGKILL)

    def around(self, owner: Any, name: str, before: str = "", after: str = "", suffix: str = "") -> None:
        """Make the function `name` of `owner` a place to end at; `suffix`: only for paths to files with this end."""
        real: Callable[..., Any] = getattr(owner, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            meant = not suffix or str(arguments[-1]).endswith(suffix)
            if meant:
                self.at(before)
            result = real(*arguments, **options)
            if meant:
                self.at(after)
            return result

        setattr(owner, name, wrapped)

    def install(self) -> None:
        """Put itself into every place."""
        self._count_steps()
        self._watch_bytes()
        self.around(TrainStep, "_to_device", before="forward")
        self.around(TrainStep, "update", before="backward", after="update")
        self.around(WeightAverage, "update", before="ema", after="after ema")
        self.around(job.Evaluator, "__call__", before="evaluation", after="after evaluation")
        self.around(CheckpointWriter, "write", before="before write", after="after write")
        self.around(CheckpointWriter, "write_now", before="before write", after="after write")
        self.around(os, "fsync", before="flush")
        self.around(os, "replace", before="rename last", after="renamed last", suffix="/last.pt")
        self.around(os, "replace", before="rename best", after="renamed best", suffix="/best.pt")
        self.around(os, "link", before="link", after="linked")
        self._cut_lines()

    def _count_steps(self) -> None:
        count = Trainer._count

        def counted(trainer: Trainer, *arguments: Any) -> None:
            count(trainer, *arguments)
            self.done = trainer.progress.step

        Trainer._count = counted  # type: ignore[method-assign]

    def _watch_bytes(self) -> None:
        """Points "byte N": when N bytes of a checkpoint are on the disk."""
        if not self.point.startswith("byte "):
            return
        limit = int(self.point.removeprefix("byte "))

        def watched(path: Any, mode: str) -> Any:
            file = open(path, mode, buffering=0)  # noqa: SIM115
            if not str(path).endswith(".pt") or self.done < self.step:
                return file
            write = file.write

            class Watched:
                def write(self, data: Any) -> int:
                    if file.tell() + len(data) >= limit:
                        write(bytes(data)[: limit - file.tell()])
                        os.killpg(0, signal.SIGKILL)
                    return write(data)

                def __getattr__(self, name: str) -> Any:
                    return getattr(file, name)

                def __enter__(self) -> Any:
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

            return Watched()

        atomic_file.open = watched  # type: ignore[attr-defined]

    def _cut_lines(self) -> None:
        """Point "line": when half a line of the log is written."""
        real = MetricsLog._write_waiting

        def cut(log: MetricsLog) -> None:
            if self.reached("line") and log._waiting:
                log._file.write(log._waiting[: len(log._waiting) // 2])
                self.at("line")
            real(log)

        MetricsLog._write_waiting = cut  # type: ignore[method-assign]


def run(arguments: list[str], kill: dict[str, Any] | None) -> int:
    """Train in a child; returns its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        torch.set_num_threads(1)
        if kill is not None:
            Killer(kill["point"], kill["step"]).install()
        with contextlib.redirect_stdout(sys.stderr):
            code = main(arguments)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    job.write_evaluation = lambda *_: []  # type: ignore[assignment]  # pictures take longer than this training
    job.draw_curves = lambda run: run / "curves.png"  # type: ignore[assignment]
    print(json.dumps([run(task["arguments"], task["kill"]) for task in json.load(sys.stdin)]))
