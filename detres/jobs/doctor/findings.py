"""What was found, check by check: counts, the first examples, and tables that belong to a check."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from detres.evaluation.metrics import format_rows
from detres.files.plain_text import printable
from detres.jobs.doctor.checks import CHECKS, Check, Severity

MAX_EXAMPLES = 20
_EXAMPLE_WIDTH = 110
_MOST_ROWS = 40

Box = Sequence[float]


class Shot(NamedTuple):
    """A picture to be shown: an image file, the boxes in question with a caption each, and the image's other boxes."""

    path: str
    size_hw: tuple[int, int] | None
    boxes_xyxy: Sequence[Box] = ()
    captions: Sequence[str] = ()
    others_xyxy: Sequence[Box] = ()


class Example(NamedTuple):
    """One case in words, and in pictures where there are any."""

    text: str
    shots: tuple[Shot, ...] = ()


@dataclass
class Finding:
    """What one check found.

    count     how many cases; `of` how many things were looked at, where that says something
    severity  "ok" without cases
    examples  the first of them
    rows      a table, for instance the objects per class
    """

    check: Check
    count: int = 0
    of: int | None = None
    own_severity: Severity | None = None
    examples: list[Example] = field(default_factory=list)
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return "ok" if not self.count else self.own_severity or self.check.severity


class Findings:
    """The findings of all checks that apply, in the order of CHECKS.

    has_boxes    the sets are for detection
    has_anchors  the model is a detector, whose anchors are to fit the boxes at the scales of training
    """

    def __init__(self, has_boxes: bool, has_anchors: bool) -> None:
        applying = {key: check for key, check in CHECKS.items() if has_boxes or not check.boxes}
        self.by_key = {key: Finding(c) for key, c in applying.items() if has_anchors or key != "anchor_coverage"}

    def add(self, key: str, text: str, shots: tuple[Shot, ...] = (), severity: Severity | None = None) -> None:
        """One more case."""
        self.add_all(key, 1, [Example(text, shots)], severity)

    def add_all(self, key: str, count: int, examples: Iterable[Example], severity: Severity | None = None) -> None:
        """`count` more cases, of which the first few `examples` are taken, worst first."""
        finding = self.by_key[key]
        finding.count += count
        finding.examples += islice(examples, max(0, MAX_EXAMPLES - len(finding.examples)))
        if severity is not None and count and finding.own_severity != "error":
            finding.own_severity = severity

    def count(self, severity: Severity) -> int:
        """How many checks came out so."""
        return sum(finding.severity == severity for finding in self.by_key.values())

    def table(self) -> str:
        """Everything as text for a terminal."""
        rows = [
            {
                "check": finding.check.title,
                "severity": finding.severity,
                "count": _count(finding),
                "first": _shorten(finding.examples[0].text) if finding.examples else "",
            }
            for finding in self.by_key.values()
        ]
        parts = [format_rows(rows)]
        for finding in self.by_key.values():
            if finding.rows:
                shown = finding.rows[:_MOST_ROWS]
                more = f"\n... and {len(finding.rows) - len(shown)} more rows" if len(finding.rows) > len(shown) else ""
                parts.append(f"{finding.check.title}\n{format_rows(shown)}{more}")
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The same for a JSON file."""
        return {
            key: {
                "severity": finding.severity,
                "count": finding.count,
                "of": finding.of,
                "examples": [example.text for example in finding.examples],
                "rows": [dict(row) for row in finding.rows],
            }
            for key, finding in self.by_key.items()
        }


def _count(finding: Finding) -> str:
    return str(finding.count) if finding.of is None else f"{finding.count} of {finding.of}"


def _shorten(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _EXAMPLE_WIDTH else text[: _EXAMPLE_WIDTH - 3] + "..."
