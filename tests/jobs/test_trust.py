"""No command imports and calls what a checkpoint names, unless it is told to trust the file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs.conftest import Workshop, run_detres


def poisoned(workshop: Workshop, folder: Path, section: str, key: str) -> tuple[Path, Path]:
    """The workshop's classifier, whose configuration names a class that would make a file; and that file."""
    state: dict[str, Any] = torch.load(workshop.runs / "pretrain" / "best.pt", weights_only=True)
    made = folder / "made"
    entry: Any = {"type": "subprocess:Popen", "args": {"args": ["touch", str(made)]}}
    state["config"][section][key] = [entry] if key == "train" else entry
    torch.save(state, folder / "poisoned.pt")
    return folder / "poisoned.pt", made


@pytest.mark.parametrize("part", [("model", "backbone"), ("data", "val"), ("data", "train")])
@pytest.mark.parametrize("command", ["eval", "recompute-norms", "figure", "predict"])
def test_named_classes_are_not_called(workshop: Workshop, tmp_path: Path, command: str, part: tuple[str, str]) -> None:
    if command == "predict" and part[0] == "data":
        pytest.skip("predict builds no data set")
    file, made = poisoned(workshop, tmp_path, *part)
    arguments: dict[str, list[Any]] = {
        "eval": ["--weights", file, "--output", tmp_path / "out"],
        "recompute-norms": ["--weights", file, "--output", tmp_path / "out" / "new.pt", "--evaluate"],
        "figure": ["responses", file, "--output", tmp_path / "out" / "figure.png"],
        "predict": ["--weights", file, next(workshop.data.rglob("*.jpg")), "--output", tmp_path / "out"],
    }
    outcome = run_detres(command, *arguments[command])
    assert outcome.code == 1 and "names subprocess:Popen, which would be imported" in outcome.err
    assert "--trust-code" in outcome.err
    assert not made.exists()
