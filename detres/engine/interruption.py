"""Ctrl-C, SIGTERM and SIGUSR1: the first one lets the step end, so that a whole checkpoint can be written."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Of a person, of a scheduler, and of a scheduler that warns before its time limit (sbatch --signal=USR1@120)."""


_GRACE_SECONDS = 0.2


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and did, after writing `checkpoint`.

    It descends from KeyboardInterrupt so that no `except Exception` on the way swallows it.
    """

    def __init__(self, signal_number: int, checkpoint: Path | None = None, *, agreed: bool = False) -> None:
        super().__init__(signal_number, checkpoint)
        self.signal_number = signal_number
        self.checkpoint = checkpoint
        self.agreed = agreed  # whether the other processes, if there are any, are stopping too

    @property
    def exit_code(self) -> int:
        """What a process that ends so returns: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1."""
        return 128 + self.signal_number

    def __str__(self) -> str:
        name = "Ctrl-C" if self.signal_number == signal.SIGINT else signal.Signals(self.signal_number).name
        where = f"; {self.checkpoint} is written, --resume goes on from there" if self.checkpoint else ""
        return f"stopped by {name}{where}"


class Interruption:
    """A context in which SIGNALS are noted instead of obeyed; `check()` then raises Interrupted.

    A second Ctrl-C stops at once. Outside the main thread, where Python allows no handlers, nothing changes.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._at_once = self._held_back = False
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._handle) for n in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def check(self, agree: Callable[[int], int] = int) -> None:
        """Raise Interrupted if a signal has come.

        `agree` may ask other processes: it gets the number of the signal, or 0, and returns that of them all.
        """
        if noted := agree(self._noted or 0):
            self._at_once = False
            raise Interrupted(noted, agreed=True)

    def check_soon(self) -> None:
        """The same, leaving a signal the time to arrive that was sent to other processes too."""
        sleep(_GRACE_SECONDS)
        self.check()

    @contextmanager
    def at_once(self, agree: Callable[[int], int] = int) -> Iterator[None]:
        """Within this block a signal raises at once: an evaluation or a wait, long and without effect on weights.

        With other processes, which `agree` asks, in this one only. It then meets them once more before it leaves, so
        they must have checked by the same `agree`, in `held_back`, before all that they ask each other.
        """
        self.check(agree)
        self._at_once = True
        try:
            yield
            self._at_once = False  # here: a signal just before the next line would leave without having met
        except Interrupted as stopped:
            self._at_once = False
            if not stopped.agreed:
                self.check(agree)
            raise
        finally:
            self._at_once = False
        self.check(agree)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Within this block of `at_once` a signal waits until its end: what all processes do together must end."""
        self._held_back = True
        try:
            yield
        finally:
            self._held_back = False
        if self._at_once and self._noted is not None:
            raise Interrupted(self._noted)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._handle_in_child(number)
            return
        if self._noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = number
        if self._at_once and not self._held_back:
            raise Interrupted(number)
        # os.write, because print may not be re-entered from a signal handler
        os.write(2, b"\nstopping after this step, then writing a checkpoint (Ctrl-C again: at once)\n")

    @staticmethod
    def _handle_in_child(number: int) -> None:
        """Loader workers inherit the handlers: a SIGTERM ends them as usual, the others are the parent's to handle."""
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
