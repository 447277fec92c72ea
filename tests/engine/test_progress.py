"""What a person sees: a bar, plain lines, or nothing."""

import io

import pytest

from detres.engine.progress import (
    BarReporter,
    PlainReporter,
    SilentReporter,
    build_reporter,
    describe,
    describe_evaluation,
    format_duration,
)

VALUES = {
    "loss": 1.23456, "loss_box": 0.5, "loss_classifier": 0.73456, "lr": 0.02, "epoch": 0.034,
    "images_per_second": 12.345, "eta_seconds": 5025.2, "grad_norm": 3.0,
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_values_yet():
    assert describe({}) == "epoch 0.00  loss ?  lr ?  ? images/s  ETA ?"


def test_a_plain_line():
    stream = io.StringIO()
    reporter = build_reporter(90000, stream=stream)
    assert isinstance(reporter, PlainReporter)
    with reporter, reporter.paused():
        reporter.advance(20)
        reporter.log(20, VALUES)
        reporter.message("saved [a/b].jpg")
    assert stream.getvalue() == (
        "step 20/90000  epoch 0.03  loss 1.235 (box 0.5, classifier 0.7346)  lr 0.02  12.3 images/s  ETA 1:23:45\n"
        "saved [a/b].jpg\n"
    )


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    reporter = build_reporter(50, stream=stream)
    assert isinstance(reporter, BarReporter)
    with reporter:
        reporter.advance(20)
        reporter.log(20, VALUES)
        reporter.message("saved [a/b].jpg")
        with reporter.paused():
            stream.write("an evaluation draws here\n")
    shown = stream.getvalue()
    for part in ("20/50", "ETA 1:23:45", "12.3 images/s", "loss 1.235", "saved [a/b].jpg", "an evaluation"):
        assert part in shown


def test_silence(capsys):
    reporter = build_reporter(5, mode="silent")
    assert isinstance(reporter, SilentReporter)
    with reporter, reporter.paused():
        reporter.advance(1)
        reporter.log(1, VALUES)
        reporter.message("x")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "?"), (0, "0:00:00"), (59.7, "0:01:00"), (3600 * 30 + 61, "30:01:01")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_an_evaluation_in_one_line():
    line = describe_evaluation(7, {"APs": None, "AP": 0.25}, "AP", True)
    assert line == "evaluation after step 7: AP 0.2500  APs n/a  (best so far)"
