"""DetectionMetrics: what an evaluation found, in numbers, and the plain-text tables that show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detres.files.plain_text import printable


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision against recall of one class at one IoU threshold: two arrays of one length, by rising recall."""

    class_name: str
    iou_threshold: float
    recall: np.ndarray
    precision: np.ndarray


@dataclass(frozen=True)
class DetectionMetrics:
    """The result of evaluate_coco or evaluate_voc.

    kind       "coco" or "voc"
    metrics    name -> value in 0..1, or None where it cannot be computed
    reasons    name -> why, for every metric that is None
    meanings   name -> what the metric is, in words
    per_class  one row per class: name, num_ground_truth, num_detections, its APs, and `reasons` for those that are None
    notes      what a reader of the numbers should know, as sentences
    curves     precision-recall curves of the classes that have ground truth
    """

    kind: str
    metrics: dict[str, float | None]
    reasons: dict[str, str]
    meanings: dict[str, str]
    per_class: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    curves: tuple[PrecisionRecall, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the curves as plain containers, for results.json."""
        return {
            "kind": self.kind,
            "metrics": self.metrics,
            "reasons": self.reasons,
            "notes": list(self.notes),
            "per_class": self.per_class,
        }

    def table(self, per_class: bool = True) -> str:
        """The metrics, then a row per class (by option), then the notes, as plain text."""
        parts = [format_metrics(self.metrics, self.reasons, self.meanings)]
        if per_class and self.per_class:
            parts.append(format_rows(self.per_class))
        if self.notes:
            parts.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(parts)


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean of the values that exist; None when none does."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def notes_on_classes(per_class: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on what the rows of a class table lack: classes without ground truth, and detections at all."""
    notes = []
    absent = [row["name"] for row in per_class if row["num_ground_truth"] == 0]
    if absent and len(absent) < len(per_class):
        shown = ", ".join(absent[:5]) + (" ..." if len(absent) > 5 else "")
        notes.append(f"{len(absent)} of {len(per_class)} classes have no ground truth and do not count ({shown})")
    if not any(row["num_detections"] for row in per_class):
        notes.append("there are no detections: every object counts as missed")
    return notes


def format_metrics(
    metrics: Mapping[str, float | None],
    reasons: Mapping[str, str] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> str:
    """One line per metric: name, value (four decimals, "n/a" for None), and its meaning or the reason for the n/a."""
    reasons, meanings = reasons or {}, meanings or {}
    rows = [
        {
            "metric": name,
            "value": value,
            "": meanings.get(name, "") if value is not None else f"({reasons.get(name, 'not computed')})",
        }
        for name, value in metrics.items()
    ]
    return format_rows(rows)


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """An aligned text table with a header: numbers to the right, text to the left; the columns are the keys in use.

    Entries that are containers (the `reasons` of a class) are left out.
    """
    if not rows:
        return "(no rows)"
    columns = list(dict.fromkeys(k for row in rows for k, value in row.items() if not isinstance(value, dict | list)))
    cells = [[_format(row.get(column)) for column in columns] for row in rows]
    headers = [_HEADERS.get(column, column) for column in columns]
    widths = [max(len(line[i]) for line in [headers, *cells]) for i in range(len(columns))]
    is_text = [any(isinstance(row.get(column), str) for row in rows) for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, is_text, strict=True)
        ).rstrip()
        for line in [headers, ["-" * width for width in widths], *cells]
    )


_WIDEST = 200  # characters of a cell
_HEADERS = {
    "name": "class",
    "num_ground_truth": "objects",
    "num_crowd": "crowds",
    "num_difficult": "difficult",
    "num_detections": "detections",
}


def _format(value: Any) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, str):
        return printable(value, _WIDEST)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
