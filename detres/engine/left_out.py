"""Counts what the data pipeline leaves out of training, and says so once."""

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


def describe_left_out(progress: Progress) -> list[str]:
    """The totals of a run, one line for each kind; nothing when nothing was left out."""
    lines = []
    if progress.skipped_images:
        lines.append(f"skipped in all: {progress.skipped_images} unreadable images, replaced by others")
    if progress.dropped_boxes:
        lines.append(f"dropped in all: the transforms cut away {_boxes(progress.dropped_boxes)}")
    return lines


def _boxes(count: int) -> str:
    return f"{count} box" if count == 1 else f"{count} boxes"
