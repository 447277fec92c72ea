"""Counts what a run leaves out or does otherwise than asked, and says so once."""

from collections.abc import Callable, Sequence

from detres.engine.records import Progress
from detres.structures import BatchNote

_SKIPS_SHOWN = 5


def count_left_out(batches: Sequence[BatchNote], progress: Progress, message: Callable[[str], None]) -> None:
    """Add the skipped images and dropped boxes of `batches` to `progress`; the first ones are told to `message`."""
    for text in (text for batch in batches for text in batch.skipped):
        progress.skipped_images += 1
        if progress.skipped_images <= _SKIPS_SHOWN:
            message(f"skipped: {text}")
        if progress.skipped_images == _SKIPS_SHOWN:
            message("further skipped images are only counted (skipped_images in metrics.jsonl)")
    dropped = sum(batch.num_dropped_boxes for batch in batches)
    if dropped and not progress.dropped_boxes:
        message(
            f"the transforms cut away {_boxes(dropped)} in step {progress.step + 1} (outside the image, or smaller "
            f"than data.min_box_size); further ones are only counted (dropped_boxes in metrics.jsonl)"
        )
    progress.dropped_boxes += dropped


def counts_left_out(progress: Progress) -> dict[str, float | None]:
    """The counts so far, by their names in the log, without those that are zero."""
    counts = {
        "skipped_images": progress.skipped_images,
        "dropped_boxes": progress.dropped_boxes,
        "recoveries": len(progress.recovered),
        "split_steps": progress.split_steps,
    }
    return {name: count for name, count in counts.items() if count}


def count_split(step: int, pieces: int, progress: Progress, message: Callable[[str], None]) -> None:
    """Add a step to `progress` whose parts were split into `pieces`, if more than one; the first is told of."""
    if pieces == 1:
        return
    progress.split_steps += 1
    if progress.split_steps == 1:
        message(
            f"step {step} did not fit into the memory: its batch was processed in {pieces} times as many parts; more "
            "such steps are only counted (split_steps in metrics.jsonl). If they are many, raise train.accumulate"
        )


def describe_left_out(progress: Progress) -> list[str]:
    """The totals of a run, one line for each kind; nothing when nothing was left out."""
    lines = []
    if progress.skipped_images:
        lines.append(f"skipped in all: {progress.skipped_images} unreadable images, replaced by others")
    if progress.dropped_boxes:
        lines.append(f"dropped in all: the transforms cut away {_boxes(progress.dropped_boxes)}")
    if progress.recovered:
        lines.append(f"given up in all: {len(progress.recovered)} batches whose loss was not finite")
    return lines


def _boxes(count: int) -> str:
    return f"{count} box" if count == 1 else f"{count} boxes"
