"""LoadReport: what became of every tensor of a file and of a model, and the error of this package."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

# loaded    copied as it is
# reshaped  copied; only dimensions of size 1 differed (a 1x1 convolution as a fully connected layer)
# rows      a head of another class list: the rows of classes with the same name were copied
# skipped   in the file, not used
# missing   in the model, not in the file: keeps its initialisation
Status = Literal["loaded", "reshaped", "rows", "skipped", "missing"]

_ORDER: tuple[Status, ...] = ("loaded", "reshaped", "rows", "skipped", "missing")
_SHOWN_NAMES = 12


class WeightsError(ValueError):
    """Weights that cannot be read, or that do not belong to this model."""


class LoadRow(NamedTuple):
    """One tensor: its key (the model's where it has one, else the file's), what happened, and why."""

    key: str
    status: Status
    detail: str = ""


@dataclass(frozen=True)
class LoadReport:
    """The result of loading weights.

    source           the file or name that the weights came from
    rows             one per tensor
    kept_classes     classes whose head rows were taken over (only where a head was matched by class names)
    initial_classes  classes whose head rows keep their initialisation
    """

    source: str
    rows: tuple[LoadRow, ...]
    kept_classes: tuple[str, ...] = ()
    initial_classes: tuple[str, ...] = ()

    def keys(self, *statuses: Status) -> list[str]:
        """The keys with any of the given statuses."""
        return [row.key for row in self.rows if row.status in statuses]

    def summary(self) -> str:
        """One line: how many tensors were loaded, skipped and missing."""
        counts = Counter(row.status for row in self.rows)
        parts = [f"{counts[status]} {_LABEL[status]}" for status in _ORDER if counts[status]]
        return f"{self.source}: {', '.join(parts) or 'no tensors'}"

    def table(self) -> str:
        """The report as text: one line per group of tensors with the same fate, then the classes, then the summary."""
        groups = Counter((row.status, _group(row.key), row.detail) for row in self.rows)
        lines = [
            (status, str(count), group, detail)
            for (status, group, detail), count in sorted(groups.items(), key=lambda item: _ORDER.index(item[0][0]))
        ]
        text = _columns([("status", "tensors", "where", "why"), *lines])
        if self.kept_classes or self.initial_classes:
            text += f"\nclasses kept:           {_names(self.kept_classes)}"
            text += f"\nclasses re-initialised: {_names(self.initial_classes)}"
        return f"{text}\n{self.summary()}"


_LABEL: dict[Status, str] = {
    "loaded": "loaded",
    "reshaped": "reshaped",
    "rows": "partly loaded by class name",
    "skipped": "skipped",
    "missing": "missing (kept their initialisation)",
}


def require_loaded(report: LoadReport) -> LoadReport:
    """The report itself; raises WeightsError when it says that not one tensor was loaded."""
    if report.keys("loaded", "reshaped", "rows"):
        return report
    raise WeightsError(
        f"{report.source}: nothing could be loaded: none of its {len(report.keys('skipped'))} tensors "
        f"({shorten(report.keys('skipped'), 3)}) belongs to this model, which wants "
        f"{shorten(report.keys('missing'), 3)}. Check that the file holds weights of this architecture, "
        "in torchvision's or detres's names"
    )


def shorten(names: Sequence[str], limit: int) -> str:
    """The first `limit` names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def _names(names: Sequence[str]) -> str:
    return f"{len(names)} ({shorten(names, _SHOWN_NAMES)})" if names else "none"


def _group(key: str) -> str:
    """`backbone.body.layer1` for backbone.body.layer1.0.conv1.weight: the path up to its first number."""
    modules = key.split(".")[:-1] or [key]
    for depth, name in enumerate(modules):
        if name[-1:].isdigit():
            return ".".join(modules[: depth + 1])
    return ".".join(modules)


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
