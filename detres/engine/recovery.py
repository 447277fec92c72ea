"""Going on after a loss that was not finite: from the last good checkpoint, without that batch, with a lower rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detres.engine.loss_monitor import NonFiniteLoss
from detres.engine.records import Progress, TrainerSettings
from detres.engine.salvage import newest_whole


@dataclass(frozen=True)
class Recovery:
    """The checkpoint to go back to, and the batches that are given up from there on (Progress.recovered)."""

    error: NonFiniteLoss
    path: Path
    state: dict[str, Any]
    recovered: tuple[int, ...]

    def describe(self, settings: TrainerSettings) -> str:
        """What happened and what is done, for the person who watches."""
        count = len(self.recovered)
        return (
            f"warning: {self.error}.\n"
            f"recovery {count} of at most {settings.max_recoveries}: back to {self.path.name}, without that batch, the "
            f"learning rate from there on {settings.recovery_lr_factor**count:.3g} times the schedule's"
        )


def after_bad_batch(
    error: NonFiniteLoss, progress: Progress, settings: TrainerSettings, checkpoints: Sequence[Path]
) -> Recovery:
    """How to go on after `error`, from the newest whole one of `checkpoints` (in the order of their steps).

    Raises `error` itself where no batch is to blame or no recovery is allowed, and NonFiniteLoss that says so when all
    are used up or there is no checkpoint.
    """
    if error.batch_start is None or settings.max_recoveries == 0:
        raise error
    if len(progress.recovered) >= settings.max_recoveries:
        used = f"all {settings.max_recoveries} recoveries of train.on_nonfinite are used up"
        raise NonFiniteLoss(f"{error}. Stopping: {used}", error.batch_start) from error
    found = newest_whole(checkpoints)
    if found is None:
        raise NonFiniteLoss(
            f"{error}. Stopping: there is no whole step_*.pt to go back to", error.batch_start
        ) from error
    return Recovery(error, *found, (*progress.recovered, error.batch_start))
