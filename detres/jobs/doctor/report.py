"""The findings as text for a terminal or a log."""

import textwrap

from detres.evaluation.metrics import format_rows
from detres.files.plain_text import printable
from detres.jobs.doctor.findings import SEVERITIES, Finding, Findings

_MOST_EXAMPLES = 3
_MOST_ROWS = 40
_NARROWEST = 40


def format_findings(findings: Findings, width: int | None = None) -> str:
    """A table of all checks, then what was found with the remedy, the worst at first, then the tables of numbers.

    width  of the terminal; lines are wrapped to fit it. None: they are as long as they are, as a log or grep wants it
    """
    rows = [
        {"check": finding.check.title, "severity": finding.severity, "count": finding.counted()}
        for finding in findings.by_key.values()
        if finding.severity != "unchecked"
    ]
    found = sorted((f for f in findings.by_key.values() if f.count), key=lambda f: SEVERITIES.index(f.severity))
    unchecked = findings.count("unchecked")
    note = f"\n{unchecked} more checks had nothing to look at" if unchecked else ""
    parts = [format_rows(rows) + note, *(_describe(finding, width) for finding in found)]
    parts += [_numbers(finding, width) for finding in findings.by_key.values() if finding.rows]
    return "\n\n".join(parts)


def _describe(finding: Finding, width: int | None) -> str:
    lines = _wrap(f"{finding.severity}: {finding.check.title}: {finding.counted()}", "", width)
    lines += _wrap(finding.check.remedy, "  ", width)
    for example in finding.examples[:_MOST_EXAMPLES]:
        lines += _wrap(printable(example.text), "  - ", width)
    rest = finding.count - _MOST_EXAMPLES
    if rest > 0 and len(finding.examples) > _MOST_EXAMPLES:
        lines.append(f"  and {rest} more; doctor.html shows the first {len(finding.examples)}")
    return "\n".join(lines)


def _numbers(finding: Finding, width: int | None) -> str:
    shown = finding.rows[:_MOST_ROWS]
    lines = [finding.check.title, format_rows(shown)]
    if len(finding.rows) > len(shown):
        lines.append(f"... and {len(finding.rows) - len(shown)} more rows")
    if finding.legend:
        lines += _wrap(finding.legend, "", width)
    return "\n".join(lines)


def _wrap(text: str, indent: str, width: int | None) -> list[str]:
    if width is None:
        return [indent + text]
    return textwrap.wrap(
        text,
        max(width, _NARROWEST),
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )
