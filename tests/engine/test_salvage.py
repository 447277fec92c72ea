"""The newest whole checkpoint is found; what is damaged is kept aside and named."""

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from detres.engine.checkpoint import CheckpointError, DamagedCheckpoint, load_checkpoint, save_checkpoint
from detres.engine.run_directory import RunDirectory
from detres.engine.salvage import newest_whole, restore_last


def _write(path: Path, step: int) -> Path:
    state = {"kind": "detector", "config": {}, "class_names": [], "progress": {"step": step}}
    save_checkpoint(path, {**state, "model": {"w": torch.arange(1000.0) + step}})
    return path


def _flip_a_bit(path: Path) -> None:
    """In the middle, where the weights are: torch alone would read them as they are."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def test_no_checkpoint(tmp_path: Path) -> None:
    assert restore_last(tmp_path / "last.pt", []) is False and newest_whole([]) is None


def _flip_a_bit_of_the_directory(path: Path) -> None:
    """Of a record's compression: the file says then that it is deflated."""
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 10] ^= 8
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [_flip_a_bit, _flip_a_bit_of_the_directory, _cut, lambda path: path.write_bytes(b"")])
def test_damage_is_seen(tmp_path: Path, harm: object) -> None:
    path = _write(tmp_path / "last.pt", 1)
    harm(path)  # type: ignore[operator]
    with pytest.raises(DamagedCheckpoint, match=r"last\.pt.*(damaged|truncated)"):
        load_checkpoint(path)


def test_a_whole_one_is_left_alone(tmp_path: Path) -> None:
    last = _write(tmp_path / "last.pt", 3)
    before = last.stat().st_ino, last.stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restore_last(last, [_write(tmp_path / "step_00000009.pt", 9)])
    assert (last.stat().st_ino, last.stat().st_mtime_ns) == before


def test_the_newest_whole_one_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    last, best = _write(tmp_path / "last.pt", 9), _write(tmp_path / "best.pt", 2)
    numbered = [_write(tmp_path / f"step_{step:08d}.pt", step) for step in (3, 6, 9)]
    _cut(last)
    _flip_a_bit(numbered[-1])
    (tmp_path / "last.pt.damaged").write_bytes(b"of another day")
    with pytest.warns(UserWarning, match=r"last\.pt \(700 bytes\) is truncated.*\(kept as last\.pt\.damaged2\); "
                      r".*step_00000009\.pt is damaged: .* step_00000009\.pt\.damaged\)\. Going on from "
                      r"step_00000006\.pt, step 6"):  # fmt: skip
        assert restore_last(last, [*numbered, best])
    assert load_checkpoint(last)["progress"]["step"] == 6
    assert sorted(path.name for path in tmp_path.glob("*.damaged*")) == [
        "last.pt.damaged",
        "last.pt.damaged2",
        "step_00000009.pt.damaged",
    ]
    assert sorted(tmp_path.glob("step_*.pt")) == numbered[:2]


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    last, other = tmp_path / "last.pt", _write(tmp_path / "step_00000004.pt", 4)
    (last / "inside").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"last\.pt is a folder.*kept as last\.pt\.damaged.*step_00000004\.pt, step 4"):
        assert restore_last(last, [other])
    assert load_checkpoint(last)["progress"]["step"] == 4 and (tmp_path / "last.pt.damaged" / "inside").is_dir()


def test_one_that_is_gone(tmp_path: Path) -> None:
    best = _write(tmp_path / "best.pt", 7)
    with pytest.warns(UserWarning, match=r"last\.pt is gone. Going on from best\.pt, step 7"):
        assert restore_last(tmp_path / "last.pt", [_write(tmp_path / "step_00000004.pt", 4), best])
    assert load_checkpoint(tmp_path / "last.pt")["progress"]["step"] == 7


def test_best_weights_that_are_damaged_are_found_on_resuming(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.save(load_checkpoint(_write(tmp_path / "a.pt", 2)), is_best=True)
    assert run.read_last("detector") is not None, "best.pt is last.pt"
    run.save(load_checkpoint(_write(tmp_path / "a.pt", 3)))
    assert run.read_last("detector") is not None and run.best.exists()
    _flip_a_bit(run.best)
    with pytest.warns(UserWarning, match=r"best\.pt is damaged.*kept as best\.pt\.damaged"):
        found = run.read_last("detector")
    assert found is not None and found["progress"]["step"] == 3
    assert not run.best.exists() and (tmp_path / "best.pt.damaged").exists()


def test_nothing_is_touched_when_none_is_whole(tmp_path: Path) -> None:
    last, other = _write(tmp_path / "last.pt", 1), _write(tmp_path / "step_00000001.pt", 1)
    _cut(last)
    _flip_a_bit(other)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole: .*last\.pt.*step_00000001\.pt"):
        restore_last(last, [other])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "step_00000001.pt"]


def _read_from_a_bad_disk(number: int) -> Any:
    def read(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return read


def _out_of_memory(kind: type[Exception], text: str) -> Any:
    def load(*_: Any, **__: Any) -> Any:
        raise kind(text)

    return load


_TORCHS = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.mark.parametrize(
    ("place", "failing", "kind", "told"),
    [
        ("zipfile.ZipExtFile.read", _read_from_a_bad_disk(errno.EIO), OSError, "Input/output error"),
        ("zipfile.ZipFile.__init__", _read_from_a_bad_disk(errno.EACCES), PermissionError, "Permission denied"),
        ("torch.load", _read_from_a_bad_disk(errno.ESTALE), OSError, "cannot read the checkpoint"),
        ("zipfile.ZipFile.testzip", _out_of_memory(MemoryError, ""), MemoryError, "not enough memory to read"),
        ("torch.load", _out_of_memory(MemoryError, ""), MemoryError, "not enough memory to read"),
        ("torch.load", _out_of_memory(RuntimeError, _TORCHS), MemoryError, "not enough memory to read"),
    ],
)
def test_a_file_that_the_machine_cannot_read_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, failing: Any, kind: type[Exception], told: str
) -> None:
    last, other = _write(tmp_path / "last.pt", 5), _write(tmp_path / "step_00000004.pt", 4)
    with monkeypatch.context() as patch:
        patch.setattr(place, failing)
        with pytest.raises(kind, match=rf"(?s){told}.*last\.pt|last\.pt.*{told}") as caught:
            restore_last(last, [other])
    assert not isinstance(caught.value, CheckpointError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "step_00000004.pt"]
    assert load_checkpoint(last)["progress"]["step"] == 5


def test_a_file_of_another_kind_is_not_taken_for_damage(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="not a detres checkpoint"):
        restore_last(tmp_path / "last.pt", [_write(tmp_path / "step_00000001.pt", 1)])


def test_the_newest_whole_one_of_several(tmp_path: Path) -> None:
    paths = [_write(tmp_path / f"{step}.pt", step) for step in (1, 2, 3)]
    _flip_a_bit(paths[2])
    with pytest.warns(UserWarning, match="looking for an older one"):
        found = newest_whole(paths)
    assert found is not None and found[0] == paths[1] and found[1]["progress"]["step"] == 2
