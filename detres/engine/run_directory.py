"""The folder of a run: everything about it in one place.

config.yaml         the resolved configuration
environment.json    one entry per start: versions, machine, commit, command
metrics.jsonl       every number by step (detres.engine.metrics_log)
tensorboard/        the same for TensorBoard
last.pt, best.pt    checkpoints; also step_00001000.pt ..., the newest few
bad_batch_step*.json  only after a loss that was not finite
*.damaged           checkpoints whose bytes have changed, kept aside when the run went on from another one
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from detres.engine.checkpoint import link_or_copy, load_checkpoint, save_checkpoint
from detres.engine.environment import describe_environment
from detres.engine.metrics_log import MetricsLog
from detres.engine.salvage import restore_last, set_aside_if_damaged
from detres.files.atomic_file import remove_partial_files, require_writable, write_text_atomically


class RunDirectory:
    """Opens `path`, creating it, before anything heavy happens.

    Raises FileExistsError when another run lives there and `resume` is false, and another OSError when nothing can be
    written there.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self._log: MetricsLog | None = None
        require_writable(self.path, "choose another one by output=...")
        self.path.mkdir(parents=True, exist_ok=True)
        if not resume and (found := self._traces()):
            raise FileExistsError(
                f"{self.path} holds another run ({', '.join(found[:4])}): go on with it by --resume, "
                f"choose another folder by output=..., or delete this one"
            )
        remove_partial_files(self.path)

    def write_config(self, text: str) -> None:
        """Keep the resolved configuration as config.yaml."""
        write_text_atomically(self.path / "config.yaml", text)

    def write_environment(self, step: int = 0) -> None:
        """Add an entry to environment.json: this start, which goes on from `step`."""
        path = self.path / "environment.json"
        try:
            starts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            starts = []
        starts.append({"from_step": step, **describe_environment()})
        self.write_json("environment.json", starts)

    def write_json(self, name: str, value: Any) -> Path:
        """Write `value` to the file `name` in this folder; returns its path."""
        path = self.path / name
        write_text_atomically(path, json.dumps(value, indent=2, default=str) + "\n")
        return path

    def start_log(self, after_step: int = 0, evaluated_step: int | None = None) -> None:
        """Open metrics.jsonl and TensorBoard; what they hold beyond `after_step` is removed.

        `evaluated_step` is the step of the last evaluation that counts, where it is not after_step.
        """
        if self._log is None:
            self._log = MetricsLog(self.path, after_step, evaluated_step)
        else:
            self._log.go_back(after_step, evaluated_step)

    def log(self, kind: str, step: int, values: Mapping[str, float | int | None]) -> None:
        """Write values ("train" or "val") of a step to metrics.jsonl and TensorBoard."""
        assert self._log is not None, "start_log comes before log"
        self._log.write(kind, step, values)

    def save(
        self, state: Mapping[str, Any], *, is_best: bool = False, number: int | None = None, keep: int = 1
    ) -> Path:
        """Write last.pt; best.pt as well if `is_best`, and with `number` a numbered one, of which `keep` remain.

        Raises OSError when the disk is full; the checkpoints that were there stay whole.
        """
        if self._log is not None:
            self._log.sync()  # a checkpoint that outlives a power cut needs the lines before it
        save_checkpoint(self.last, state)
        self.share_last(is_best=is_best, number=number, keep=keep)
        return self.last

    def share_last(self, *, is_best: bool = False, number: int | None = None, keep: int = 1) -> None:
        """Give last.pt its other names, as in `save`; a run that was killed in between does it on resuming."""
        if is_best:
            link_or_copy(self.last, self.best)
        if number is not None and keep > 0:
            link_or_copy(self.last, self.path / f"step_{number:08d}.pt")
            for old in self.numbered()[:-keep]:
                old.unlink(missing_ok=True)

    def read_last(self, kind: str) -> dict[str, Any] | None:
        """The newest whole checkpoint, now last.pt, of a `kind` of model; None where there is none yet.

        A best.pt that is damaged is found now, with a warning, and not when the run ends.
        """
        if not self.restore_last():
            return None
        set_aside_if_damaged(self.best, self.last)
        return load_checkpoint(self.last, kind=kind)

    def restore_last(self) -> bool:
        """Make sure that last.pt is whole, by another checkpoint if need be; whether there is any (salvage)."""
        return restore_last(self.last, [*self.numbered(), self.best])

    def numbered(self) -> list[Path]:
        """The checkpoints kept by step, oldest first."""
        return sorted(self.path.glob("step_*.pt"))

    def close(self) -> None:
        """Close the logs."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def discard_if_empty(self) -> None:
        """Remove the folder of a run that could not even begin, unless there is something in it."""
        with suppress(OSError):
            self.path.rmdir()

    def _traces(self) -> list[str]:
        """What shows that a run got somewhere here; a start that failed before its first step leaves none of these."""
        files = [self.last, self.best, *self.numbered(), self.path / "metrics.jsonl"]
        return [file.name for file in files if file.exists() and file.stat().st_size > 0]
