"""Finding the newest whole checkpoint of a run whose last one is damaged or gone."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detres.engine.checkpoint import CheckpointError, DamagedCheckpoint, link_or_copy, load_checkpoint


def restore_last(last: Path, others: Sequence[Path]) -> bool:
    """Make sure that `last` is whole, or else the newest whole one of `others`; returns whether there is any.

    What is damaged stays beside as NAME.damaged, and a warning says what was wrong with it. Raises CheckpointError
    when there are checkpoints, but no whole one: whether to begin anew over them is for the user to decide.
    """
    damaged: dict[Path, DamagedCheckpoint] = {}
    steps: dict[Path, int] = {}
    for path in (last, *others):
        if not path.exists():
            continue
        try:
            steps[path] = load_checkpoint(path).get("progress", {}).get("step", 0)
        except DamagedCheckpoint as error:
            damaged[path] = error
        if last in steps:
            return True
    if damaged and not steps:
        reasons = "; ".join(map(str, damaged.values()))
        raise CheckpointError(f"no checkpoint in {last.parent} is whole: {reasons}. Begin another run by output=...")
    if not steps:
        return False
    newest = max(steps, key=lambda path: steps[path])
    kept = [f"{error} (kept as {_set_aside(path).name})" for path, error in damaged.items()]
    link_or_copy(newest, last)
    why = "; ".join(kept) or f"{last} is gone"
    warnings.warn(f"{why}. Going on from {newest.name}, step {steps[newest]}", stacklevel=2)
    return True


def set_aside_if_damaged(best: Path, last: Path) -> None:
    """Rename `best`, with a warning, unless it is whole, the same file as the whole `last`, or not there."""
    if not best.exists() or best.samefile(last):
        return
    try:
        load_checkpoint(best)
    except DamagedCheckpoint as error:
        kept = _set_aside(best).name
        warnings.warn(f"{error} (kept as {kept}). There is no {best.name} until an evaluation is better", stacklevel=2)


def newest_whole(paths: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    """The last of `paths`, which are in the order of their steps, that is whole, and its content."""
    for path in reversed(paths):
        try:
            return path, load_checkpoint(path)
        except DamagedCheckpoint as error:
            warnings.warn(f"{error}; looking for an older one", stacklevel=2)
    return None


def _set_aside(path: Path) -> Path:
    target, number = path.with_name(f"{path.name}.damaged"), 2
    while target.exists():
        target, number = path.with_name(f"{path.name}.damaged{number}"), number + 1
    return path.rename(target)
