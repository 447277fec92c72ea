"""A file that becomes unreadable in the middle of epoch 7: the run stops without losing a step, or skips and counts."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from detres.data.image_folder import ImageFolderDataset
from detres.data.sampler import TrainSampler
from detres.engine.checkpoint import load_checkpoint
from detres.engine.progress import PlainReporter
from tests.jobs.conftest import Outcome, Workshop

STOP = 13
"""Of 2 steps an epoch: in the middle of the seventh."""


@pytest.fixture(scope="module")
def images(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class folder with 10 crops of the workshop, which may be harmed."""
    folder = tmp_path_factory.mktemp("images")
    crops = sorted((workshop.data / "digits" / "classify" / "train").rglob("*.png"))[:10]
    assert len(crops) == 10
    for number, crop in enumerate(crops):
        target = folder / str(number % 2) / f"{number}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(crop.read_bytes())
    return folder


@pytest.fixture
def pretrain(workshop: Workshop, images: Path, detres: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """`detres pretrain` on these images for 8 epochs of two steps, read by two workers."""
    data = {"type": "image_folder", "root": str(images)}
    settings = [
        *(f"data.{name}={json.dumps(data)}" for name in ("train", "val")),
        "data.train_transforms=[{type: horizontal_flip}]",
        *("data.workers=2", "train.batch_size=5", "train.steps=16", "train.eval_every=16", "train.log_every=1"),
        "model.backbone={type: cifar_resnet, depth: 8}",
    ]

    def run(output: Path, *more: str) -> Outcome:
        return detres("pretrain", "--config", workshop.pretrain_config, *settings, f"output={output}", *more)

    return run


def _stop(monkeypatch: pytest.MonkeyPatch) -> None:
    log = PlainReporter.log

    def stopping(self: PlainReporter, step: int, values: Mapping[str, float | None]) -> None:
        log(self, step, values)
        if step == STOP:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PlainReporter, "log", stopping)


def _state(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "last.pt")


def test_stop_or_skip(pretrain: Callable[..., Outcome], images: Path, tmp_path: Path, monkeypatch: Any) -> None:
    whole, stopped, skipping = tmp_path / "whole", tmp_path / "stopped", tmp_path / "skipping"
    outcome = pretrain(whole)
    assert outcome.code == 0, outcome.err
    with monkeypatch.context() as patch:
        _stop(patch)
        for run in (stopped, skipping):
            assert pretrain(run).code == 143
    dataset = ImageFolderDataset(images)
    victim = Path(dataset.file(TrainSampler(len(dataset), 5, seed=0).epoch_order(6)[7]))  # of the next step
    content = victim.read_bytes()
    victim.write_bytes(content[:60])

    outcome = pretrain(stopped, "--resume")
    assert outcome.code == 1 and victim.name in outcome.err and "data.on_bad_image" in outcome.err
    assert _state(stopped)["progress"]["step"] == STOP

    outcome = pretrain(skipping, "--resume", "data.on_bad_image=skip", "train.eval_every=17", "eval.batch_size=1")
    count = _state(skipping)["progress"]["skipped_images"]
    assert outcome.code == 0 and f"skipped in all: {count} unreadable images" in outcome.out, outcome.err
    assert count >= 2, "in epoch 7 and in epoch 8"
    rows = [json.loads(line) for line in (skipping / "metrics.jsonl").read_text().splitlines()]
    assert [row for row in rows if row["kind"] == "train"][-1]["skipped_images"] == count

    victim.write_bytes(content)
    outcome = pretrain(stopped, "--resume")
    assert outcome.code == 0, outcome.err
    for name, tensor in _state(whole)["model"].items():
        assert torch.equal(tensor, _state(stopped)["model"][name]), name
