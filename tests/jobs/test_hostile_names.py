"""Names of classes and files that hold escape codes, markup or formulas, wherever they are shown."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from detres.cli import main
from detres.cli.shared import say
from detres.engine.progress import BarReporter, PlainReporter
from detres.evaluation.metrics import format_rows
from detres.evaluation.report import plot_class_ap, plot_confusion
from detres.evaluation.results import write_results_json, write_voc_comp4
from detres.files.plain_text import cell, printable, printable_lines
from detres.jobs.doctor.findings import Example, Findings
from detres.jobs.doctor.page import build_page
from detres.jobs.doctor.report import format_findings
from detres.jobs.findings import LabelFinder
from detres.structures import Detections

NAMES = [
    "\x1b[2J\x1b]0;gone\x07",
    "<script>alert(1)</script>",
    "a\r\nb",
    "\u202egnp",
    "$x_$",
    "x" * 100_000,
    "\udc80",
    "",
]


def test_nothing_and_plain_text() -> None:
    assert printable("") == printable_lines("") == cell("") == ""
    assert printable_lines("a\n\x1b[1mb\r\n") == "a\n?[1mb?\n" and printable("é" * 9, most=6) == "ééé..."
    assert [cell(text) for text in ("=1+1", "-x", "@a", "a=b", "7")] == ["'=1+1", "'-x", "'@a", "a=b", "7"]


def is_plain(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def test_what_a_terminal_gets(capsys: pytest.CaptureFixture[str]) -> None:
    table = format_rows([{"name": name, "AP": 0.5} for name in NAMES])
    assert is_plain(table) and len(table.splitlines()) == len(NAMES) + 2 and max(map(len, table.splitlines())) < 250
    stream = io.StringIO()
    PlainReporter(1, stream).message("\n".join(NAMES))
    assert is_plain(stream.getvalue())
    say(NAMES[0])
    assert main(["config", "show", "--config", NAMES[0]]) == 1
    shown = capsys.readouterr()
    assert is_plain(shown.out) and is_plain(shown.err) and "error: no configuration" in shown.err


def test_the_bar_shows_no_escape_codes_of_others() -> None:
    stream = io.StringIO()
    BarReporter(1, stream).message(f"{NAMES[0]} [red]")
    assert stream.getvalue().strip() == "?[2J?]0;gone? [red]"


def test_the_doctors_page() -> None:
    findings = Findings(has_boxes=True, has_anchors=False)
    findings.add_all("annotation_files", len(NAMES), [Example(name) for name in NAMES])
    page = build_page(NAMES[1], NAMES, findings, lambda text: None)
    assert "<script" not in page and is_plain(page) and "&lt;script&gt;" in page
    assert "default-src 'none'" in page and is_plain(format_findings(findings))


def test_files_of_results(tmp_path: Path) -> None:
    write_results_json(tmp_path / "r.json", {"per_class": [{"name": name} for name in NAMES]})
    assert [row["name"] for row in json.loads((tmp_path / "r.json").read_bytes())["per_class"]] == NAMES
    found = Detections(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    paths = write_voc_comp4(tmp_path / "comp4", [found], ["a b\nc"], [*NAMES, "../../x", "/etc/x"])
    assert sorted(paths) == sorted((tmp_path / "comp4").iterdir()) and all(is_plain(path.name) for path in paths)
    assert paths[0].read_text() == "a_b_c 1 1 1 1 1\n"


def test_pictures(tmp_path: Path) -> None:
    rows = [{"name": name, "AP": 0.5, "num_ground_truth": 1} for name in NAMES]
    plot_class_ap(rows, tmp_path / "ap.png")
    plot_confusion(torch.eye(len(NAMES), dtype=torch.int64), NAMES, tmp_path / "confusion.png")
    assert max((tmp_path / name).stat().st_size for name in ("ap.png", "confusion.png")) < 500_000


def test_tables_that_spreadsheets_read(tmp_path: Path) -> None:
    formula = '=cmd|" /C calc"!A0'
    entry = {"file": formula, "predictions": [{"name": formula, "label": 0, "score": 0.5}]}
    LabelFinder.write_tables(LabelFinder.__new__(LabelFinder), tmp_path, [entry])
    with (tmp_path / "predictions.csv").open(newline="") as file:
        row = list(csv.reader(file))[1]
    assert row[0] == row[3] == f"'{formula}" and row[4] == "0.5"
