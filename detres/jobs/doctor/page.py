"""The findings as one HTML page that needs nothing but itself; every text of the data set's is escaped."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from detres.files.plain_text import printable
from detres.jobs.doctor.findings import Example, Finding, Findings
from detres.jobs.doctor.pictures import data_uri

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
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
section {{ margin: 2rem 0; }}
h2 {{ font-size: 1.1rem; margin-bottom: .2rem; }}
.ok {{ color: #2c7a3d; }} .warning {{ color: #a05a00; }} .error {{ color: #b00020; }}
.ok, .warning, .error {{ font-weight: 600; }}
figure {{ display: inline-block; margin: .4rem .8rem .4rem 0; max-width: 30rem; vertical-align: top; }}
figure img {{ max-width: 100%; border: 1px solid #bbb; }}
figcaption, li {{ font-size: .85rem; overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1>
"""


def build_page(title: str, summary: Sequence[str], findings: Findings, progress: Callable[[str], None]) -> str:
    """The page: a summary, the table of all checks, then those that found something, with pictures."""
    parts = [_HEAD.format(title=_text(title))]
    parts += [f"<p>{_text(line)}</p>\n" for line in summary]
    parts.append(_overview(findings))
    for key, finding in findings.by_key.items():
        if finding.count or finding.rows:
            progress(finding.check.title)
            parts.append(_section(key, finding))
    return "".join(parts) + "</body></html>\n"


def _overview(findings: Findings) -> str:
    rows = []
    for key, finding in findings.by_key.items():
        of = "" if finding.of is None else f" of {finding.of}"
        has_section = bool(finding.count or finding.rows)
        title = f'<a href="#{key}">{_text(finding.check.title)}</a>' if has_section else _text(finding.check.title)
        rows.append(
            f'<tr><td>{title}</td><td class="{finding.severity}">{finding.severity}</td>'
            f'<td class="number">{finding.count}{of}</td></tr>\n'
        )
    return f"<table><tr><th>check</th><th>severity</th><th>count</th></tr>\n{''.join(rows)}</table>\n"


def _section(key: str, finding: Finding) -> str:
    shown = "".join(_figures(example) for example in finding.examples[:MAX_PICTURED])
    lines = "".join(f"<li>{_text(example.text)}</li>\n" for example in finding.examples)
    rest = finding.count - len(finding.examples)
    more = f"<p>{rest} more are not shown.</p>\n" if finding.examples and rest > 0 else ""
    remedy = f"<p>{_text(finding.check.remedy)}</p>\n" if finding.count else ""
    return (
        f'<section id="{key}"><h2>{_text(finding.check.title)}: '
        f'<span class="{finding.severity}">{finding.severity}</span>, {finding.count}</h2>\n{remedy}'
        f"{_table(finding.rows)}{shown}{f'<ul>{lines}</ul>' if lines else ''}{more}</section>\n"
    )


def _figures(example: Example) -> str:
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
