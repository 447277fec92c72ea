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
from pathlib import Path
from typing import Any

from detres.files.atomic_file import write_text_atomically


class MetricsLog:
    """Appends to `folder`/metrics.jsonl and to TensorBoard event files in `folder`/tensorboard.

    `after_step` is the step that the run goes on from, `evaluated_step` that of its last evaluation: what a lost run
    wrote beyond them is removed. A disk that takes no more stops no training: lines wait in memory until it does.
    """

    def __init__(self, folder: Path, after_step: int = 0, evaluated_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "metrics.jsonl"
        last = {"val": after_step if evaluated_step is None else evaluated_step}
        kept = [row for row in read_metrics(self._path) if row["step"] <= last.get(row["kind"], after_step)]
        write_text_atomically(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self._path.open("ab", buffering=0)
        self._waiting = b""
        self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=after_step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, float | int | None]) -> None:
        """One line of metrics.jsonl, with the system when this returns, and one point per value in TensorBoard."""
        row = {name: _finite(value) for name, value in values.items()}
        self._waiting += (json.dumps({"kind": kind, "step": step, **row}, allow_nan=False) + "\n").encode()
        try:
            self._write_waiting()
        except OSError as error:
            warnings.warn(f"cannot write {self._path}: {error}; its lines wait until that is possible", stacklevel=2)
        self._draw(kind, step, row)

    def sync(self) -> None:
        """Have what the system was given on the disk when this returns; any thread may ask for it."""
        with suppress(OSError, ValueError):  # ValueError: closed meanwhile
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what waits, and close both."""
        with suppress(OSError):
            self._write_waiting()
        self._file.close()
        if self._board is not None:
            with suppress(OSError):
                self._board.close()

    def _write_waiting(self) -> None:
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
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()  # a damaged byte damages its line only
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
