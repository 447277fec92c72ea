"""Checkpoints: whole or not there, and clear about what is wrong with a file."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from detres.engine.checkpoint import (
    CheckpointError,
    link_or_copy,
    load_checkpoint,
    load_model_state,
    require_same_classes,
    save_checkpoint,
)


def _state(**extra):
    model = {"w": torch.ones(2)}
    return {"kind": "detector", "config": {"a": [1, None]}, "class_names": ["x"], "model": model, **extra}


def test_an_empty_model_makes_the_round_trip(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, _state(model={}))
    content = load_checkpoint(path, kind="detector")
    assert content["model"] == {} and content["config"] == {"a": [1, None]}
    assert (content["format"], content["version"]) == ("detres", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("bad", [np.float64(1), Path("x"), object(), {1, 2}])
def test_only_tensors_and_plain_containers(tmp_path, bad):
    with pytest.raises(TypeError, match=r"checkpoint\['metrics'\]\['AP'\]\[0\] is a .* plain containers only"):
        save_checkpoint(tmp_path / "last.pt", _state(metrics={"AP": [bad]}))
    assert not list(tmp_path.iterdir())


def test_missing_file_says_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no"):
        load_checkpoint(tmp_path / "last.pt")
    save_checkpoint(tmp_path / "best.pt", _state())
    with pytest.raises(FileNotFoundError, match=r"that folder has best.pt.*last.pt"):
        load_checkpoint(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"is a folder, expected a checkpoint file such as .*last.pt"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "last.pt"
    save_checkpoint(path, _state())
    data = path.read_bytes()
    path.write_bytes(data[: keep if keep >= 1 else int(keep * len(data))])
    with pytest.raises(CheckpointError, match="last.pt.* (truncated|damaged)"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_text_and_foreign_pickles_are_refused_without_running_them(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "x.pt"
    for write in (lambda f: f.write(b"not a checkpoint at all"), lambda f: pickle.dump(Evil(), f),
                  lambda f: torch.save({"model": Evil()}, f)):  # fmt: skip
        with path.open("wb") as file:
            write(file)
        with pytest.raises(CheckpointError, match="x.pt"):
            load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_other_contents(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="not a detres checkpoint .a bare state dict of 1 tensors"):
        load_checkpoint(path)
    torch.save({"model": {}, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match="a dict with the keys model, epoch"):
        load_checkpoint(path)
    torch.save({**_state(), "format": "detres", "version": 2}, path)
    with pytest.raises(CheckpointError, match="version 2, this detres reads version 1"):
        load_checkpoint(path)
    torch.save({"format": "detres", "version": 1, "kind": "detector"}, path)
    with pytest.raises(CheckpointError, match="lacks config, class_names, model"):
        load_checkpoint(path)


def test_another_architecture():
    model = torch.nn.Linear(2, 3)
    before = model.weight.clone()
    with pytest.raises(CheckpointError) as caught:
        load_model_state(model, {"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}, "a.pt")
    assert str(caught.value).startswith(
        "a.pt is of another architecture: weight has shape (4, 2), the model (3, 2); no bias; "
        "extra unknown to the model. Resume with the configuration of that run"
    )
    assert torch.equal(model.weight, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, _state())
    before = path.read_bytes()
    full = tmp_path / ".last.pt.partial"
    full.symlink_to("/dev/full")
    monkeypatch.setattr("detres.files.atomic_file.temporary_name", lambda path: full)
    with pytest.raises(OSError, match="No space left on device.*previous one is untouched") as caught:
        save_checkpoint(path, _state(model={"w": torch.ones(300_000)}))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_ctrl_c_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "last.pt", _state())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_made_again(tmp_path):
    save_checkpoint(tmp_path / "gone" / "last.pt", _state())
    assert load_checkpoint(tmp_path / "gone" / "last.pt")["kind"] == _state()["kind"]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="cannot write the checkpoint: "):
        save_checkpoint(tmp_path / "file" / "last.pt", _state())


@pytest.mark.parametrize("links", [True, False])
def test_a_link_keeps_its_content_when_the_source_is_replaced(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    source, target = tmp_path / "last.pt", tmp_path / "best.pt"
    save_checkpoint(source, _state(progress=1))
    link_or_copy(source, target)
    save_checkpoint(source, _state(progress=2))
    assert (load_checkpoint(target)["progress"], load_checkpoint(source)["progress"]) == (1, 2)
    link_or_copy(source, target)
    assert load_checkpoint(target)["progress"] == 2 and len(list(tmp_path.iterdir())) == 2


def test_a_run_does_not_go_on_with_other_classes() -> None:
    state = {"class_names": ["cat", "dog"]}
    require_same_classes(state, {"class_names": ["cat", "dog"]}, "last.pt")
    with pytest.raises(CheckpointError, match=r"last.pt: .*2 classes.*have 2 \(dog, emu only on one side\)"):
        require_same_classes(state, {"class_names": ["cat", "emu"]}, "last.pt")
    with pytest.raises(CheckpointError, match="the same ones in another order"):
        require_same_classes(state, {"class_names": ["dog", "cat"]}, "last.pt")
