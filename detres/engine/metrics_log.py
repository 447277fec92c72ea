"""metrics.jsonl and TensorBoard: every number of a run by step.

metrics.jsonl has one object a line: {"kind": "train" | "val", "step": ..., name: value, ...}. Values that are not
finite, or could not be computed, are null.
"""

import json
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from detres.files.atomic_file import write_text_atomically


class MetricsLog:
    """Appends to `folder`/metrics.jsonl and to TensorBoard event files in `folder`/tensorboard, from where go_back set.

    A disk that takes no more stops no training: lines wait in memory until it does.
    """

    def __init__(self, folder: Path, after_step: int = 0, evaluated_step: int | None = None) -> None:
        self._folder, self._path = folder, folder / "metrics.jsonl"
        self._file: FileIO | None = None
        self._waiting, self._begins_anew = b"", False  # whether the file is to hold only what waits
        self._board: Any = None
        self.go_back(after_step, evaluated_step)

    def go_back(self, after_step: int, evaluated_step: int | None = None) -> None:
        """Remove what a lost run wrote beyond `after_step`, and of evaluations beyond `evaluated_step` (if not that).

        Lines that still wait count as written.
        """
        self.close()
        written = b"" if self._begins_anew or not self._path.exists() else self._path.read_bytes()
        last = {"val": after_step if evaluated_step is None else evaluated_step}
        rows = _parse(written + self._waiting, self._path)
        kept = [row for row in rows if row["step"] <= last.get(row["kind"], after_step)]
        self._waiting = "".join(json.dumps(row) + "\n" for row in kept).encode()
        self._begins_anew = True
        self._write_or_wait()
        self._board = _open_board(self._folder / "tensorboard", after_step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, float | int | None]) -> None:
        """One line of metrics.jsonl, with the system when this returns, and one point per value in TensorBoard."""
        row = {name: _finite(value) for name, value in values.items()}
        self._waiting += (json.dumps({"kind": kind, "step": step, **row}, allow_nan=False) + "\n").encode()
        self._write_or_wait()
        self._draw(kind, step, row)

    def sync(self) -> None:
        """Have what the system was given on the disk when this returns; any thread may ask for it."""
        file = self._file
        with suppress(OSError, ValueError):  # ValueError: closed meanwhile
            if file is not None:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Write what waits, and close both."""
        if self._waiting:
            with suppress(OSError):
                self._write_waiting()
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._board is not None:
            with suppress(OSError):
                self._board.close()
            self._board = None

    def _write_or_wait(self) -> None:
        try:
            self._write_waiting()
        except OSError as error:
            warnings.warn(f"cannot write {self._path}: {error}; its lines wait until that is possible", stacklevel=3)

    def _write_waiting(self) -> None:
        if self._begins_anew:
            write_text_atomically(self._path, self._waiting.decode())
            self._waiting, self._begins_anew = b"", False
        if self._file is None:
            self._file = FileIO(self._path, "ab")
        while self._waiting:  # a full disk may take the beginning of a line: the rest follows when it can
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def _draw(self, kind: str, step: int, row: Mapping[str, float | int | None]) -> None:
        if self._board is None:
            return
        try:
            for name, value in row.items():
                if value is not None:
                    self._board.add_scalar(f"{kind}/{name}", value, step)
        except OSError as error:  # its writer does not go on after one
            warnings.warn(f"TensorBoard's events end at step {step}: {error}", stacklevel=3)
            self._board = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none when it is missing. A last line that a crash cut off is left out.

    Raises ValueError naming the line when one before the last cannot be read.
    """
    return _parse(path.read_bytes(), path) if path.exists() else []


def _open_board(folder: Path, purge_step: int) -> Any:
    """TensorBoard's writer; None, with a warning, where the disk does not take its first event."""
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(folder), purge_step=purge_step)
    except OSError as error:
        warnings.warn(f"no TensorBoard events from here on: {error}", stacklevel=4)
        return None


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    lines = content.decode("utf-8", errors="replace").splitlines()  # a damaged byte damages its line only
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("no object with a step")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is not a line of metrics ({error}): remove that line") from error
        rows.append(row)
    return rows


def _finite(value: float | int | None) -> float | int | None:
    return value if value is not None and math.isfinite(value) else None
