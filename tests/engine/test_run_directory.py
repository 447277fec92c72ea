"""The run directory: refuses what it must, and keeps what it should."""

import errno
import json
from pathlib import Path

import pytest
import torch

from detres.engine.metrics_log import read_metrics
from detres.engine.run_directory import RunDirectory

STATE = {"kind": "detector", "config": {}, "class_names": [], "model": {"w": torch.zeros(1)}}


def test_an_empty_folder_is_taken(tmp_path):
    RunDirectory(tmp_path / "a" / "b")
    RunDirectory(tmp_path / "a" / "b", resume=True)
    assert not list((tmp_path / "a" / "b").iterdir())


def test_a_start_that_failed_early_does_not_block_the_next(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_config("model: {}\n")
    run.write_environment()
    run.start_log()
    run.close()
    RunDirectory(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "model: {}\n"


def test_another_run_is_not_overwritten(tmp_path):
    RunDirectory(tmp_path).save(STATE)
    with pytest.raises(FileExistsError, match=r"holds another run \(last.pt\): go on with it by --resume"):
        RunDirectory(tmp_path)
    RunDirectory(tmp_path, resume=True)


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".last.123.partial.pt").write_bytes(b"half")
    RunDirectory(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file, expected a folder"):
        RunDirectory(tmp_path / "file")
    with pytest.raises(OSError, match="cannot write into the output folder .*: Not a directory.*output="):
        RunDirectory(tmp_path / "file" / "below")

    def refuse(self, data):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(PermissionError, match=r"folder .*closed: Permission denied; choose another one by output="):
        RunDirectory(tmp_path / "closed")


def test_numbered_checkpoints(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.numbered() == []
    for step in (5, 10, 15):
        run.save({**STATE, "progress": step}, is_best=step == 10, number=step, keep=2)
    assert [path.name for path in run.numbered()] == ["step_00000010.pt", "step_00000015.pt"]
    assert torch.load(run.best)["progress"] == 10 and torch.load(run.last)["progress"] == 15


def test_environment_lists_every_start(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_environment()
    run.write_environment(step=40)
    starts = json.loads((tmp_path / "environment.json").read_text())
    assert [start["from_step"] for start in starts] == [0, 40]
    assert starts[0]["torch"] == torch.__version__ and starts[0]["processors"] >= 1


def test_metrics_beyond_the_resumed_step_are_removed(tmp_path):
    run = RunDirectory(tmp_path)
    run.start_log()
    for step in (1, 2, 3):
        run.log("train", step, {"loss": 1 / step, "bad": float("inf"), "unknown": None})
    run.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "st')
    run.start_log(after_step=2)
    run.log("val", 3, {"AP": 0.5})
    run.close()
    assert read_metrics(path) == [
        {"kind": "train", "step": 1, "loss": 1.0, "bad": None, "unknown": None},
        {"kind": "train", "step": 2, "loss": 0.5, "bad": None, "unknown": None},
        {"kind": "val", "step": 3, "AP": 0.5},
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_metrics_that_cannot_be_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2 is not a line of metrics"):
        read_metrics(path)


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunDirectory(tmp_path)
    run.start_log()
    run.log("train", 3, {"loss": 0.25, "missing": None})
    run.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 0.25)]
