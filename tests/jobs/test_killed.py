"""Killed at any point, a checkpoint half-written included, and resumed: the run ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from detres.engine.checkpoint import load_checkpoint
from detres.engine.metrics_log import read_metrics
from tests.jobs.conftest import Workshop

STEPS = 9
POINTS = [
    *("forward", "backward", "update", "ema", "after ema", "line", "evaluation", "after evaluation"),
    *("before write", "byte 0", "byte 1", "byte 5000", "byte 90000", "flush", "rename last", "renamed last"),
    *("link", "linked", "rename best", "renamed best", "after write"),
]
SETTINGS = [
    *(f"train.steps={STEPS}", "train.accumulate=2", "train.checkpoint_every=2", "train.eval_every=3"),
    *(
        "train.log_every=4",
        "train.val_loss=true",
        "train.best_metric=val_loss",
        "train.ema={decay: 0.9}",
        "data.workers=2",
    ),
    "data.train_transforms=[{type: resize_shortest, short: [48, 64]}, {type: horizontal_flip}, "
    "{type: albumentations, name: RandomBrightnessContrast}]",
    "model.backbone={type: resnet, depth: 18, out_features: [c2, c3], norm: batch, frozen_stages: 0}",
    "train.optimizer={type: adamw, lr: 0.001}",
]
CASES = [
    ["train.precision=float32", "train.async_checkpoints=false"],
    ["train.precision=bfloat16", "train.async_checkpoints=false"],
    ["train.precision=float32", "train.async_checkpoints=true"],
]
TIMES = ("seconds", "images_per_second", "seconds_per_step", "loading_share")


def _train(workshop: Workshop, output: Path, kills: list[dict[str, Any] | None], settings: list[str]) -> list[int]:
    """Begin a run, resume it as often as there are `kills`; how each of these processes ended."""
    arguments = ["train", "--config", str(workshop.config), *SETTINGS, *settings, f"output={output}"]
    tasks = [{"arguments": arguments + ["--resume"] * (i > 0), "kill": kill} for i, kill in enumerate(kills)]
    environment = {**os.environ, "DETRES_DATASETS": str(workshop.data), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed.py"))],
        input=json.dumps(tasks),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout, done.stderr
    ends: list[int] = json.loads(done.stdout)
    assert ends[-1] == 0, done.stderr
    return ends


def _same(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, Mapping):
        assert first.keys() == second.keys(), where
        for key, value in first.items():
            if key not in TIMES:
                _same(value, second[key], f"{where}.{key}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def _assert_same_runs(one: Path, other: Path) -> None:
    for name in ("last.pt", "best.pt"):
        first, second = load_checkpoint(one / name), load_checkpoint(other / name)
        first["config"]["output"] = second["config"]["output"]
        _same(first, second, name)
    for first_row, second_row in zip(*(read_metrics(run / "metrics.jsonl") for run in (one, other)), strict=True):
        _same(first_row, second_row, "metrics.jsonl")
    assert [path.name for path in sorted(one.glob("*.pt"))] == [path.name for path in sorted(other.glob("*.pt"))]
    assert not [*one.glob("*.damaged*"), *one.glob(".*")], "nothing half-written is left"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("case", range(len(CASES)), ids=[" ".join(case) for case in CASES])
def test_killed_anywhere_and_resumed(workshop: Workshop, tmp_path: Path, case: int) -> None:
    """Every point in one of the cases, each at a step of chance, one process after another."""
    points = random.Random(1).sample(POINTS, len(POINTS))[case :: len(CASES)]
    chance = random.Random(case)
    kills = sorted(({"point": point, "step": chance.randrange(STEPS - 2)} for point in points), key=_step)
    assert _train(workshop, tmp_path / "whole", [None], CASES[case]) == [0]
    ends = _train(workshop, tmp_path / "killed", [*kills, None], CASES[case])
    assert ends == [-signal.SIGKILL] * len(kills) + [0], kills
    _assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def _step(kill: dict[str, Any]) -> int:
    return int(kill["step"])
