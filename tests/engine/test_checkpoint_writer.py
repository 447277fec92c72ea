"""Writing checkpoints beside the training, onto slow disks, and onto disks that take no more."""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from detres.engine import checkpoint_writer
from detres.engine.checkpoint import load_checkpoint
from detres.engine.checkpoint_writer import CheckpointWriter, copy_to_host
from detres.engine.run_directory import RunDirectory


class Disk:
    """Stands before torch.save: lets a write wait, or fail, as long as told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.free = threading.Event()
        self.free.set()
        self.threads: list[str] = []
        self._save = torch.save
        monkeypatch.setattr(torch, "save", self)

    def __call__(self, content: Any, file: Any) -> None:
        self.threads.append(threading.current_thread().name)
        self.free.wait()
        if self.full:
            file.write(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        self._save(content, file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def _state(step: int, value: float | None = None) -> dict[str, Any]:
    weights = torch.full((3,), float(step) if value is None else value)
    return {"kind": "detector", "config": {}, "class_names": [], "model": {"w": weights}, "progress": {"step": step}}


def _writer(folder: Path, **options: Any) -> tuple[CheckpointWriter, list[str]]:
    said: list[str] = []
    return CheckpointWriter(RunDirectory(folder, resume=True), 2, said.append, **options), said


def _step(path: Path) -> int:
    return load_checkpoint(path)["progress"]["step"]


def test_nothing_written(tmp_path: Path) -> None:
    writer, said = _writer(tmp_path)
    writer.wait()
    assert not writer.failed and said == [] and list(tmp_path.iterdir()) == []


def test_in_the_background_the_state_of_the_call_is_written(tmp_path: Path, disk: Disk) -> None:
    writer, _ = _writer(tmp_path, in_background=True)
    writer.write(_state(1))
    writer.wait()
    disk.free.clear()
    state = _state(2)
    writer.write(state, is_best=True, number=2)
    state["model"]["w"].fill_(77)  # the training goes on
    assert _step(tmp_path / "last.pt") == 1, "until the new one is whole, the old one stands"
    disk.free.set()
    writer.write_now(_state(3))
    assert _step(tmp_path / "last.pt") == 3
    for name in ("best.pt", "step_00000002.pt"):
        assert load_checkpoint(tmp_path / name)["model"]["w"].tolist() == [2, 2, 2]
    main = threading.current_thread().name
    assert [name == main for name in disk.threads] == [False, False, True]


def test_a_write_waits_for_the_one_before(tmp_path: Path, disk: Disk) -> None:
    writer, _ = _writer(tmp_path, in_background=True)
    disk.free.clear()
    writer.write(_state(1))
    releasing = threading.Timer(0.05, disk.free.set)
    releasing.start()
    writer.write(_state(2))
    assert disk.free.is_set() and _step(tmp_path / "last.pt") >= 1
    writer.wait()
    assert _step(tmp_path / "last.pt") == 2


@pytest.mark.parametrize("in_background", [False, True])
def test_a_full_disk_is_told_of_once_and_best_weights_wait_for_room(
    tmp_path: Path, disk: Disk, in_background: bool
) -> None:
    writer, said = _writer(tmp_path, in_background=in_background)
    writer.write(_state(1), is_best=True)
    writer.wait()
    disk.full = True
    for step in (2, 3):
        writer.write(_state(step), is_best=step == 2)
        writer.wait()
        assert writer.failed
    assert len(said) == 1 and "No space left on device" in said[0] and "Training goes on" in said[0]
    assert (_step(tmp_path / "last.pt"), _step(tmp_path / "best.pt")) == (1, 1)
    disk.full = False
    writer.write(_state(4), number=4)
    writer.wait()
    assert not writer.failed and said[1:] == ["checkpoints can be written again"]
    assert (_step(tmp_path / "last.pt"), _step(tmp_path / "best.pt")) == (4, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt", "step_00000004.pt"]


def test_the_last_state_is_kept_elsewhere_when_its_folder_takes_no_more(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    writer, _ = _writer(tmp_path / "run")
    writer.write(_state(1))
    save = RunDirectory.save
    monkeypatch.setattr(
        RunDirectory, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only", "last.pt"))
    )
    with pytest.raises(
        OSError, match=r"Read-only\. The newest state is kept in .*elsewhere.*move it to .*run.last\.pt"
    ):
        writer.write_now(_state(2))
    (kept,) = elsewhere.glob("*/last.pt")
    assert (_step(kept), _step(tmp_path / "run" / "last.pt")) == (2, 1)
    disk.full = True
    monkeypatch.setattr(RunDirectory, "save", save)
    with pytest.raises(OSError, match=r"No space left.*Nor can .*elsewhere take it"):
        writer.write_now(_state(2))
    assert len(list(elsewhere.iterdir())) == 1


def test_what_no_checkpoint_can_hold_is_no_matter_of_the_disk(tmp_path: Path) -> None:
    writer, _ = _writer(tmp_path, in_background=True)
    writer.write({**_state(1), "metrics": {1, 2}})
    with pytest.raises(TypeError, match="plain containers only"):
        writer.wait()


def test_a_slow_disk_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_writer, "SLOW_SECONDS", -1.0)
    writer, said = _writer(tmp_path)
    for step in (1, 2):
        writer.write(_state(step))
    assert len(said) == 1 and "train.async_checkpoints=true" in said[0]


def test_a_copy_shares_nothing() -> None:
    state = {"a": [torch.zeros(2), (1, None)], "b": {"c": torch.ones(1)}}
    copied = copy_to_host(state)
    state["a"][0].fill_(5)  # type: ignore[union-attr,index]
    assert copied["a"][0].tolist() == [0, 0] and copied["a"][1] == (1, None) and copied["b"]["c"].tolist() == [1]


ON_A_SMALL_DISK = """
import sys, warnings
from pathlib import Path
import torch
from detres.engine.checkpoint import load_checkpoint
from detres.engine.checkpoint_writer import CheckpointWriter
from detres.engine.run_directory import RunDirectory

def state(step, size):
    weights = torch.full((size,), float(step))
    return {"kind": "detector", "config": {}, "class_names": [], "model": {"w": weights}, "progress": {"step": step}}

run, said = RunDirectory(sys.argv[1]), []
run.start_log()
writer = CheckpointWriter(run, 1, said.append)
writer.write(state(1, 100_000))
(run.path / "other").write_bytes(bytes(1_500_000))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    writer.write(state(2, 100_000))
    try:
        (run.path / "filler").write_bytes(bytes(4_000_000))
    except OSError:
        pass
    for step in range(3):
        run.log("train", step, {"loss": 1.0, "x" * 4096: 1.0})
assert len(said) == 1 and "No space left on device" in said[0], said
assert any("its lines wait" in str(w.message) for w in caught), [str(w.message) for w in caught]
assert load_checkpoint(run.last)["progress"]["step"] == 1
(run.path / "filler").unlink()
(run.path / "other").unlink()
writer.write(state(3, 100_000))
assert load_checkpoint(run.last)["progress"]["step"] == 3 and len(said) == 2
run.close()
from detres.engine.metrics_log import read_metrics
assert [row["step"] for row in read_metrics(run.path / "metrics.jsonl")] == [0, 1, 2]
print("done")
"""


def test_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 2 MB in a namespace of its own."""
    mount = 'mount -t tmpfs -o size=2m none "$1"'
    shell = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    try:
        allowed = subprocess.run([*shell, mount, "sh", str(tmp_path)], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if allowed.returncode:
        pytest.skip(f"may not mount a file system here: {allowed.stderr.decode().strip()}")
    script = tmp_path.parent / f"{tmp_path.name}.py"
    script.write_text(ON_A_SMALL_DISK)
    command = [*shell, f'{mount} && exec "$2" "$3" "$1/run"', "sh", str(tmp_path), sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
