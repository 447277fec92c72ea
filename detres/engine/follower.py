"""The run directory as the processes beside the main one see it: a place to which they write nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detres.engine.run_directory import RunDirectory


class FollowerDirectory(RunDirectory):
    """Where the main process keeps the run; the folder may be on another machine."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self._log = None

    def write_config(self, text: str) -> None:
        """Nothing."""

    def write_environment(self, step: int = 0) -> None:
        """Nothing."""

    def write_json(self, name: str, value: Any) -> Path:
        """Where the main process writes it."""
        return self.path / name

    def start_log(self, after_step: int = 0, evaluated_step: int | None = None) -> None:
        """Nothing."""

    def log(self, kind: str, step: int, values: Mapping[str, float | int | None]) -> None:
        """Nothing."""

    def save(
        self, state: Mapping[str, Any], *, is_best: bool = False, number: int | None = None, keep: int = 1
    ) -> Path:
        """Where the main process writes it."""
        return self.last

    def share_last(self, *, is_best: bool = False, number: int | None = None, keep: int = 1) -> None:
        """Nothing."""

    def restore_last(self) -> bool:
        """Nothing: the main process reads what there is."""
        return False

    def discard_if_empty(self) -> None:
        """Nothing."""
