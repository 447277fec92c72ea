"""Checkpoints that somebody else wrote: nothing runs, and nothing is built that their weights could not fill."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from detres.config import config_from_dict, config_to_dict
from detres.engine.checkpoint import CheckpointError, load_checkpoint
from detres.weights.report import WeightsError
from detres.weights.sources import read_state_dict
from detres.wiring.checkpoints import model_from_checkpoint
from detres.wiring.networks import build_model
from tests.fuzz.samples import CLASSIFIER, Payload


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    config = config_from_dict(CLASSIFIER)
    parts = {"kind": "classifier", "config": config_to_dict(config), "class_names": ["x", "y"], "ema": None}
    return {"format": "detres", "version": 1, **parts, "model": build_model(config, 2).state_dict()}


def test_a_whole_one(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert model_from_checkpoint(tmp_path / "a.pt")[2] == ("x", "y")


@pytest.mark.parametrize(
    "part",
    [
        {"model": {"w": 1.0}},
        {"model": {3: torch.zeros(1)}},
        {"model": {"w": torch.zeros(1, device="meta")}},
        {"model": {"w": torch.zeros(2, 2).to_sparse()}},
        {"ema": [1]},
        {"config": ["a"]},
        {"class_names": 3},
        {"class_names": [1, 2]},
        {"kind": 1},
    ],
)
def test_parts_of_another_kind(content: dict[str, Any], tmp_path: Path, part: dict[str, Any]) -> None:
    torch.save({**content, **part}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"a\.pt.*{next(iter(part))}"):
        load_checkpoint(tmp_path / "a.pt")


def test_code_does_not_run(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save({**content, "optimizer": Payload()}, "a.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"a\.pt is damaged or holds Python objects .* never executed"):
            load_checkpoint("a.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_storage_shorter_than_its_tensor_says(content: dict[str, Any], tmp_path: Path) -> None:
    file, short = io.BytesIO(), io.BytesIO()
    torch.save(content, file)
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(short, "w") as target:
        for name in archive.namelist():
            data = archive.read(name)
            target.writestr(name, data[: len(data) // 2] if "/data/" in name else data)
    (tmp_path / "a.pt").write_bytes(short.getvalue())
    with pytest.raises(CheckpointError, match=r"a\.pt .*truncated"):
        load_checkpoint(tmp_path / "a.pt")


def test_networks_too_large_for_the_weights_are_not_built(content: dict[str, Any], tmp_path: Path) -> None:
    config = {**CLASSIFIER, "model": {"type": "classifier", "backbone": {"type": "resnet", "depth": 50}}}
    config["model"]["backbone"] |= {"width_per_group": 65536, "groups": 32}  # half a million gigabytes
    torch.save({**content, "config": config_to_dict(config_from_dict(config))}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt is of another architecture"):
        model_from_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "part", [{"ema": [1]}, {"config": 3}, {"class_names": 3}, {"config": {"model": {"pixels": 3}}}]
)
def test_as_initial_weights(content: dict[str, Any], tmp_path: Path, part: dict[str, Any]) -> None:
    torch.save({**content, **part}, tmp_path / "a.pt")
    if isinstance(part.get("config"), dict):
        assert read_state_dict(tmp_path / "a.pt").model_settings == {"pixels": 3}
        return
    with pytest.raises(WeightsError, match=r"a\.pt: "):
        read_state_dict(tmp_path / "a.pt")
