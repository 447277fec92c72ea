"""The findings as one HTML page that needs nothing but itself; every text of the data set's is escaped."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from detres.files.plain_text import printable
from detres.jobs.doctor.findings import SEVERITIES, Example, Finding, Findings
from detres.jobs.doctor.pictures import OTHERS, data_uri
from detres.structures.drawing import class_color

MAX_PICTURED = 6  # examples of a check
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: .6rem 0 1.2rem; }}
td, th {{ padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
section {{ margin: 2rem 0; }}
h2 {{ font-size: 1.1rem; margin-bottom: .2rem; }}
.ok {{ color: #2c7a3d; }} .warning {{ color: #a05a00; }} .error {{ color: #b00020; }}
.ok, .warning, .error, .unchecked {{ font-weight: 600; }}
.unchecked, .legend, summary {{ color: #666; }}
summary {{ cursor: pointer; }}
.swatch {{ display: inline-block; width: .8em; height: .8em; }}
figure {{ display: inline-block; margin: .4rem .8rem .8rem 0; max-width: 50rem; vertical-align: top; }}
figure img {{ max-width: 100%; vertical-align: top; margin-right: .3rem; }}
figcaption, li {{ font-size: .85rem; overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1>
"""
_SWATCHES = (
    (class_color(0), "the case"),
    (class_color(1), "the box that it repeats"),
    (OTHERS, "the image's other boxes"),
)
_LEGEND = (
    '<p class="legend">In the pictures: '
    + ", ".join(f'<span class="swatch" style="background: rgb{color}"></span> {text}' for color, text in _SWATCHES)
    + ". Small boxes are ringed, and shown enlarged on the right.</p>\n"
)


def build_page(title: str, summary: Sequence[str], findings: Findings, progress: Callable[[str], None]) -> str:
    """The page: a summary, what was found and what was not, then each finding and table, with pictures."""
    parts = [_HEAD.format(title=_text(title))]
    parts += [f"<p>{_text(line)}</p>\n" for line in summary]
    parts.append(_overview(findings))
    sections = []
    for key, finding in _worst_first(findings):
        if finding.count or finding.rows:
            progress(finding.check.title)
            sections.append(_section(key, finding))
    if any("<img" in section for section in sections):
        parts.append(_LEGEND)
    return "".join([*parts, *sections]) + "</body></html>\n"


def _worst_first(findings: Findings) -> list[tuple[str, Finding]]:
    return sorted(findings.by_key.items(), key=lambda item: SEVERITIES.index(item[1].severity))


def _overview(findings: Findings) -> str:
    """What was found with its remedy, and folded below that, which checks found nothing."""
    ordered = _worst_first(findings)
    rows = "".join(
        f'<tr><td><a href="#{key}">{_text(finding.check.title)}</a></td>{_severity_cell(finding)}'
        f'<td class="number">{finding.counted()}</td><td>{_text(finding.check.remedy)}</td></tr>\n'
        for key, finding in ordered
        if finding.count
    )
    head = "<tr><th>found</th><th>severity</th><th>count</th><th>what it means, and what to do</th></tr>\n"
    quiet = [item for item in ordered if not item[1].count]
    lines = "".join(
        f"<tr><td>{_linked(key, finding)}</td>{_severity_cell(finding)}"
        f'<td class="number">{finding.counted()}</td></tr>\n'
        for key, finding in quiet
    )
    why = ", as there was nothing to look at" if findings.count("unchecked") else ""
    return (
        (f"<table>{head}{rows}</table>\n" if rows else "<p>Nothing was found.</p>\n")
        + f"<details><summary>{len(quiet)} checks found nothing{why}</summary>\n"
        + f"<table><tr><th>check</th><th>severity</th><th>count</th></tr>\n{lines}</table></details>\n"
    )


def _severity_cell(finding: Finding) -> str:
    return f'<td class="{finding.severity}">{finding.severity}</td>'


def _linked(key: str, finding: Finding) -> str:
    title = _text(finding.check.title)
    return f'<a href="#{key}">{title}</a>' if finding.rows else title


def _section(key: str, finding: Finding) -> str:
    """A finding: its remedy, its table, pictures of the first cases, and the others in words."""
    figures, lines = [], []
    for number, example in enumerate(finding.examples):
        figure = _figure(example) if number < MAX_PICTURED else ""
        if figure:
            figures.append(figure)
        else:
            lines.append(f"<li>{_text(example.text)}</li>\n")
    listed = f"<ul>{''.join(lines)}</ul>" if lines else ""
    rest = finding.count - len(finding.examples)
    more = f"<p>{rest} more are not shown.</p>\n" if finding.examples and rest > 0 else ""
    remedy = f"<p>{_text(finding.check.remedy)}</p>\n" if finding.count else ""
    legend = f'<p class="legend">{_text(finding.legend)}</p>\n' if finding.legend and finding.rows else ""
    return (
        f'<section id="{key}"><h2>{_text(finding.check.title)}: '
        f'<span class="{finding.severity}">{finding.severity}</span>, {finding.counted()}</h2>\n{remedy}'
        f"{_table(finding.rows)}{legend}{''.join(figures)}{listed}{more}"
        "</section>\n"
    )


def _figure(example: Example) -> str:
    """The pictures of one case; nothing where its image cannot be read."""
    addresses = [address for shot in example.shots if shot.path and (address := data_uri(shot)) is not None]
    if not addresses:
        return ""
    images = "".join(f'<img alt="" src="{address}">' for address in addresses)
    return f"<figure>{images}<figcaption>{_text(example.text)}</figcaption></figure>\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{_text(str(key))}</th>" for key in rows[0])
    lines = "".join(f"<tr>{''.join(_cell(value) for value in row.values())}</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{lines}</table>\n"


def _cell(value: Any) -> str:
    kind = "" if isinstance(value, str) else ' class="number"'
    return f"<td{kind}>{_text(str(value))}</td>"


def _text(text: str) -> str:
    """Text of anywhere, fit for a page: one line, without markup."""
    return escape(printable(text))
