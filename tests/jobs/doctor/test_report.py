"""The findings as text: the worst first, wrapped to the terminal, whole lines elsewhere."""

from detres.jobs.doctor.checks import CHECKS
from detres.jobs.doctor.findings import Example, Findings
from detres.jobs.doctor.report import format_findings
from tests.jobs.conftest import run_detres
from tests.jobs.doctor.conftest import Clinic


def _findings() -> Findings:
    return Findings(has_boxes=True, has_anchors=True)


def test_nothing_found() -> None:
    text = format_findings(_findings())
    assert len(text.splitlines()) == len(CHECKS) + 2 and "warning" not in text


def test_findings_stand_below_the_table_with_their_remedy() -> None:
    findings = _findings()
    findings.add_all("tiny_boxes", 30, [Example(f"box {number} " + "long " * 30) for number in range(5)])
    findings.add("leaks", "one\x1b[31m picture")
    lines = format_findings(findings).splitlines()
    start = lines.index("error: images shared by splits: 1")
    assert lines[start + 1] == f"  {CHECKS['leaks'].remedy}" and lines[start + 2] == "  - one?[31m picture"
    assert lines[start + 4] == "warning: tiny boxes: 30"
    assert lines[-1] == "  and 27 more; doctor.html shows the first 5" and len(lines[-2]) > 150
    assert max(len(line) for line in format_findings(findings, 80).splitlines()) <= 80


def test_of_a_real_set(coco: Clinic) -> None:
    """Tables and all fit 80 columns."""
    text = format_findings(coco.examine().findings, 80)
    assert "height / width" in text and "IoU >= 0.7" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_nothing_to_look_at(coco: Clinic) -> None:
    """Checks that had no data are not called ok."""
    for split in ("train", "val"):
        (coco.root / "coco" / f"{split}.json").unlink()
    outcome = run_detres("doctor", "--config", coco.config, "--output", coco.root / "out")
    assert outcome.code == 1 and f"{len(CHECKS) - 2} more checks had nothing to look at" in outcome.out
    assert " ok " not in outcome.out and "the annotation file does not exist; check the path" in outcome.out
    page = (coco.root / "out" / "doctor.html").read_text()
    assert ">ok<" not in page and "as there was nothing to look at" in page
