"""Error curves: what is read from a run's metrics, and the picture of several runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detres.engine.error_curves import Curve, draw_error_panels, read_errors


def write_run(folder: Path, rows: list[Mapping[str, Any]]) -> Path:
    """A run directory with these metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def train(step: int, error: float | None) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": 1.0, "error_top1": error}


def val(step: int, top1: float) -> dict[str, Any]:
    return {"kind": "val", "step": step, "top1": top1, "top5": 1.0, "loss": 1.0}


def test_no_run(tmp_path: Path) -> None:
    write_run(tmp_path / "there", [train(1, 0.5)])
    with pytest.raises(FileNotFoundError, match="is no folder, expected that of a run; .* has the runs there"):
        read_errors(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="has no metrics.jsonl with rows"):
        read_errors(tmp_path)


def test_a_detectors_run(tmp_path: Path) -> None:
    write_run(tmp_path, [{"kind": "train", "step": 1, "loss": 2.0}, {"kind": "val", "step": 1, "AP": 0.3}])
    with pytest.raises(ValueError, match="neither error_top1 nor top1; expected the run of a classifier"):
        read_errors(tmp_path)


def test_what_is_read(tmp_path: Path) -> None:
    rows = [train(10, 0.5), train(20, None), val(20, 0.25), train(30, 0.125), val(30, 0.75), val(40, 0.5)]
    errors = read_errors(write_run(tmp_path / "net", rows))
    assert errors.label == "net"
    assert errors.train == Curve((10, 30), (50.0, 12.5))
    assert errors.val == Curve((20, 30, 40), (75.0, 25.0, 50.0))
    assert errors.summary() == {
        "run": "net", "steps": 40, "train error": 12.5, "val error": 50.0, "best val error": 25.0, "at step": 30
    }  # fmt: skip


def test_a_run_that_is_not_evaluated_yet(tmp_path: Path) -> None:
    errors = read_errors(write_run(tmp_path / "net", [train(10, 0.5)]), "mine")
    summary = errors.summary()
    assert summary["run"] == "mine" and summary["val error"] is None and summary["best val error"] is None
    assert draw_error_panels([("", [errors])], tmp_path / "figure.png").exists()


def test_the_training_error_of_a_long_run_is_a_mean(tmp_path: Path) -> None:
    rows = [train(step, 0.9) for step in range(1, 399)] + [train(step, 0.1 * (step - 398)) for step in range(399, 403)]
    assert read_errors(write_run(tmp_path, rows)).summary()["train error"] == pytest.approx(25.0)  # of the last 4


def test_smoothing_keeps_lines_and_evens_out_noise() -> None:
    steps = tuple(range(1000))
    line = Curve(steps, tuple(float(step) for step in steps))
    assert line.smoothed().percent == pytest.approx(line.percent)
    spike = Curve(steps, tuple(110.0 if step == 500 else 0.0 for step in steps)).smoothed().percent
    assert max(spike) == pytest.approx(10.0) and sum(spike) == pytest.approx(110.0)  # a window of 11
    assert Curve((), ()).smoothed() == Curve((), ())


def test_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def keep_and_save(figure: Figure, *args: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep_and_save)
    long = [train(step, 0.9 if step < 4000 else 0.22) for step in range(1000, 40001, 1000)] + [val(40000, 0.7)]
    short = [train(100, 0.6), train(200, 0.3), val(200, 0.65)]
    runs = {name: read_errors(write_run(tmp_path / name, rows)) for name, rows in (("_a$b", long), ("c", short))}
    draw_error_panels([("plain", [runs["_a$b"]]), ("residual", list(runs.values()))], tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 1.5 * image.height  # two panels side by side

    plain, residual = drawn[0].axes
    assert plain.get_title() == "plain" and len(plain.lines) == 2 and len(residual.lines) == 4
    train_line, val_line = plain.lines
    assert val_line.get_linewidth() > train_line.get_linewidth() and train_line.get_color() == val_line.get_color()
    assert list(val_line.get_xdata()) == [4.0] and list(val_line.get_ydata()) == pytest.approx([30.0])
    assert plain.get_xlabel() == "iterations (1e4)"
    assert plain.lines[0].get_color() == residual.lines[0].get_color() != residual.lines[2].get_color()
    assert plain.get_ylim() == residual.get_ylim() == (20.0, 65.0)  # 22 to 60: what was before the quarter is cut off
    assert [text.get_text().strip() for text in residual.get_legend().get_texts()] == [r"_a\$b", "c"]


@pytest.mark.parametrize(("top", "expected"), [(None, (0.0, 15.0)), (8.0, (0.0, 8.0))])
def test_the_axis(tmp_path: Path, top: float | None, expected: tuple[float, float]) -> None:
    from detres.engine import error_curves

    rows = [train(10, 0.9), train(80, 0.1), val(80, 0.88)]
    assert error_curves._limits([read_errors(write_run(tmp_path, rows))], top) == pytest.approx(expected)
