"""Writing the checkpoints of a run so that neither a slow disk nor a full one stops the training."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detres.engine.checkpoint import save_checkpoint
from detres.engine.run_directory import RunDirectory

SLOW_SECONDS = 30.0
"""A write that holds up the training for longer is told of, once."""


class CheckpointWriter:
    """Writes checkpoints into `run`; with `in_background` from a copy in memory, in a thread beside the training.

    One is written at a time, and each replaces its predecessor only when it is whole on the disk. A write that fails
    is told to `message` and leaves the previous checkpoint; `failed` then asks the training to try again soon. Best
    weights that could not be written are kept in memory until they are.
    """

    def __init__(
        self, run: RunDirectory, keep: int, message: Callable[[str], None], *, in_background: bool = False
    ) -> None:
        self._run, self._keep, self._in_background, self._message = run, keep, in_background, message
        self._thread: threading.Thread | None = None
        self._outcomes: list[Exception | None] = []  # of writes that have ended and were not told of yet
        self._failing = self._told_slow = False
        self._best: dict[str, Any] | None = None

    @property
    def failed(self) -> bool:
        """Whether the newest write that has ended failed."""
        self._take_note()
        return self._failing

    def write(self, state: Mapping[str, Any], *, is_best: bool = False, number: int | None = None) -> None:
        """Write `state` as RunDirectory.save does; a failure only shows in `failed` and in a message."""
        self.wait()
        if self._in_background:
            copied = copy_to_host(state)
            self._thread = threading.Thread(target=self._write, args=(copied, is_best, number), daemon=True)
            self._thread.start()
            return
        started = time.perf_counter()
        self._write(state, is_best, number)
        self._tell_if_slow(time.perf_counter() - started)
        self._take_note()

    def write_now(self, state: Mapping[str, Any], *, is_best: bool = False, number: int | None = None) -> None:
        """The same for a state with which the training ends: returns when it is on the disk.

        Raises OSError when it cannot be written; the state is then kept in the system's folder for temporary files,
        if that takes it, and the error says where.
        """
        self.wait()
        self._write(state, is_best, number)
        if isinstance(error := self._outcomes[-1], OSError):
            self._outcomes.clear()
            raise OSError(error.errno, f"{error.strerror}. {self._rescue(state)}", error.filename) from error
        self._take_note()

    def wait(self) -> None:
        """Return when no write is under way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._take_note()

    def _write(self, state: Mapping[str, Any], is_best: bool, number: int | None) -> None:
        """Write, and note the outcome; runs in the thread too, where nobody would see an error."""
        try:
            self._run.save(state, is_best=is_best, number=number, keep=self._keep)
            if self._best is not None and not is_best:
                save_checkpoint(self._run.best, self._best)
            self._best = None
            self._outcomes.append(None)
        except Exception as error:
            if is_best:
                self._best = copy_to_host(state)
            self._outcomes.append(error)

    def _take_note(self) -> None:
        while self._outcomes:
            error = self._outcomes.pop(0)
            if error is not None and not isinstance(error, OSError):
                raise error
            if error is not None and not self._failing:
                self._message(f"warning: {error}. Training goes on, and tries again at every line of the log")
            if error is None and self._failing:
                self._message("checkpoints can be written again")
            self._failing = error is not None

    def _rescue(self, state: Mapping[str, Any]) -> str:
        folder: Path | None = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="detres_"))
            save_checkpoint(folder / "last.pt", state)
        except OSError as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            return f"Nor can {tempfile.gettempdir()} take it ({error.strerror})"
        return f"The newest state is kept in {folder / 'last.pt'}: move it to {self._run.last}, then resume"

    def _tell_if_slow(self, seconds: float) -> None:
        if seconds > SLOW_SECONDS and not self._told_slow:
            self._told_slow = True
            self._message(
                f"writing a checkpoint took {seconds:.0f} s, in which nothing was trained: with "
                "train.async_checkpoints=true it is written beside the training (takes memory for one copy)"
            )


def copy_to_host(value: Any) -> Any:
    """Nested containers with every tensor copied into memory of its own."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copy_to_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copy_to_host(item) for item in value)
    return value
