"""metrics.jsonl and TensorBoard: every number of a run by step.

metrics.jsonl has one object a line: {"kind": "train" | "val", "step": ..., name: value, ...}. Values that are not
finite, or could not be computed, are null.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detres.files.atomic_file import write_text_atomically


class MetricsLog:
    """Appends to `folder`/metrics.jsonl and to TensorBoard event files in `folder`/tensorboard.

    `after_step` is the step that the run goes on from: what a lost run wrote beyond it is removed.
    """

    def __init__(self, folder: Path, after_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(path) if row["step"] <= after_step]
        write_text_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=after_step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, float | int | None]) -> None:
        """One line of metrics.jsonl, on the disk when this returns, and one point per value in TensorBoard."""
        row = {name: _finite(value) for name, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, **row}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in row.items():
            if value is not None:
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush both."""
        self._file.close()
        self._board.close()


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
