"""Training and evaluation on several processes, against one process: at the level of the commands."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from detres.cli import main
from detres.data.loader import EvalLoader
from detres.engine.checkpoint import load_checkpoint
from detres.engine.progress import PlainReporter
from tests.jobs.conftest import Outcome, Workshop, run_detres
from tests.together import done, run_processes

UNEQUAL = "data.train_transforms=[{type: resize_shortest, short: [48, 64, 80], max: 200}, {type: horizontal_flip}]"
DETECTOR = [
    *("model.backbone.norm=frozen_batch", "model.backbone.weights=null", UNEQUAL, "train.steps=4"),
    *("model.roi_heads.sampling.batch_size=64", "train.clip_grad_norm=5.0", "train.val_loss=true", "eval.batch_size=2"),
]
# Not channels last: there torch's batch norms round more on CPUs, and a value that rounding moves across the kink of a
# ReLU, or to another maximum of a pool, changes the gradient by a jump, which hides what is compared.
SYNCHRONISED = [
    *("model.backbone.norm=sync_batch", "model.backbone.weights=null", UNEQUAL, "train.steps=2", "train.accumulate=2"),
    *("train.batch_size=8", "model.rpn.normalize_by=sampled", "train.ema=null", "train.channels_last=false"),
]
CLASSIFIER = [
    *("model.backbone.norm=sync_batch", "model.mixing={mixup: 0.2, cutmix: 1.0}", "train.steps=2"),
    "train.optimizer.lr=1e-4",
    *("data.train_transforms=[{type: random_resized_crop, size: 24}]", "eval.batch_size=3"),
]


@pytest.fixture(autouse=True)
def _data(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRES_DATASETS", str(workshop.data))


def _together(count: int, *arguments: object) -> list[Outcome]:
    return done(run_processes(count, run_detres, *arguments))


def _trained(count: int, folder: Path, workshop: Workshop, command: str, *settings: str) -> dict[str, Any]:
    """The last checkpoint of a run on `count` processes."""
    config = workshop.config if command == "train" else workshop.pretrain_config
    for outcome in _together(count, command, "--config", config, f"output={folder}", *settings):
        assert outcome.code == 0, outcome.err
    return load_checkpoint(folder / "last.pt")


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest difference between tensors of two checkpoints, relative to the largest value of each tensor."""
    found = [0.0]
    for part in ("model", "ema"):
        assert (one[part] is None) == (other[part] is None)
        for name, tensor in (one[part] or {}).items():
            assert torch.isfinite(tensor).all(), name
            if tensor.is_floating_point():
                gap = (tensor - other[part][name]).abs().max() / tensor.abs().max().clamp(min=1e-12)
                found.append(float(gap))
    return max(found)


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The distance between the models of two checkpoints, all values together, relative to their length.

    Of norms over batches, untrained: rounding turns ReLUs on and off, and biases are near zero, so that a single tensor
    tells little. tests/engine/test_train_step.py compares these in double precision.
    """
    pairs = [(t.double(), other["model"][n].double()) for n, t in one["model"].items() if t.is_floating_point()]
    squares = [((a - b).square().sum(), a.square().sum()) for a, b in pairs]
    return float((sum(gap for gap, _ in squares) / sum(whole for _, whole in squares)) ** 0.5)


@pytest.mark.parametrize(
    ("command", "settings"),
    [("train", DETECTOR), ("train", SYNCHRONISED), ("pretrain", CLASSIFIER)],
    ids=["images of unequal sizes", "synchronised norms, accumulation", "classifier, mixed images"],
)
def test_two_processes_train_as_one(workshop: Workshop, tmp_path: Path, command: str, settings: list[str]) -> None:
    one = _trained(1, tmp_path / "one", workshop, command, *settings)
    two = _trained(2, tmp_path / "two", workshop, command, *settings)
    assert (_difference if settings is DETECTOR else _distance)(one, two) < 1e-5
    assert {**one["progress"], "seconds": 0, "best": 0} == {**two["progress"], "seconds": 0, "best": 0}
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [(row["kind"], row["step"]) for row in rows[0]] == [(row["kind"], row["step"]) for row in rows[1]]
    for first, second in zip(*rows, strict=True):
        same = [name for name in first if name.startswith(("loss", "grad", "lr", "error", "val_"))]
        assert {name: second[name] for name in same} == pytest.approx({name: first[name] for name in same}, rel=2e-4)


def test_processes_for_themselves_train_as_one_with_as_many_parts(workshop: Workshop, tmp_path: Path) -> None:
    one = _trained(1, tmp_path / "one", workshop, "train", *DETECTOR, "train.accumulate=2")
    two = _trained(2, tmp_path / "two", workshop, "train", *DETECTOR, "train.across_processes=parts")
    assert _difference(one, two) < 1e-5


def test_a_run_moves_from_two_processes_to_one(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _trained(1, tmp_path / "whole", workshop, "train", *DETECTOR)
    log = PlainReporter.log

    def log_and_be_stopped(self: PlainReporter, step: int, values: Mapping[str, float | None]) -> None:
        log(self, step, values)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    arguments = ("train", "--config", workshop.config, f"output={tmp_path / 'moved'}", *DETECTOR)
    with monkeypatch.context() as patch:
        patch.setattr(PlainReporter, "log", log_and_be_stopped)
        first, second = _together(2, *arguments)
    assert first.code == second.code == 128 + signal.SIGTERM
    assert "last.pt is written" in first.err
    assert load_checkpoint(tmp_path / "moved" / "last.pt")["progress"]["step"] == 2
    (outcome,) = _together(1, *arguments, "--resume")
    assert outcome.code == 0 and "at step 2" in outcome.out, outcome.err
    assert _difference(whole, load_checkpoint(tmp_path / "moved" / "last.pt")) < 1e-5


def test_only_the_main_process_speaks(workshop: Workshop, tmp_path: Path) -> None:
    first, second = _together(2, "train", "--config", workshop.config, "train.steps=1", f"output={tmp_path}")
    assert "4 images a step on 2 processes, 1 x 2 on each" in first.out and "trained 1 steps" in first.out
    assert second == Outcome(0, "", "")
    refused = _together(2, "train", "--config", workshop.config, "train.steps=1", f"output={tmp_path}")
    assert [outcome.code for outcome in refused] == [1, 1]
    assert "detres, process 0 of 2: error:" in refused[0].err and "holds another run" in refused[0].err
    assert refused[1].err == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.batch_size=3"], "batch_size 3 cannot be split into 1 micro-batches on 2 processes; choose a mult"),
        (["train.batch_size=auto", "train.reference_batch_size=4"], "set train.batch_size=4"),
    ],
)  # fmt: skip
def test_batches_that_two_processes_cannot_share(
    workshop: Workshop, tmp_path: Path, settings: list[str], message: str
) -> None:
    outcomes = _together(2, "train", "--config", workshop.config, *settings, f"output={tmp_path / 'run'}")
    assert [outcome.code for outcome in outcomes] == [1, 1]
    assert message in outcomes[0].err


def test_other_commands_are_for_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        main(["zoo"])
    assert "runs in one process: start it without torchrun" in capsys.readouterr().err


@pytest.mark.parametrize(("run", "count"), [("tiny", 2), ("tiny", 4), ("pretrain", 3)])
def test_evaluation_in_shares_is_the_same_to_the_last_bit(
    workshop: Workshop, tmp_path: Path, run: str, count: int
) -> None:
    weights = workshop.runs / run / "best.pt"
    for number in (1, count):  # 5 images in batches of 2 (of 4 processes one gets none), 20 crops in batches of 3
        size = "eval.batch_size=2" if run == "tiny" else "eval.batch_size=3"
        outcomes = _together(number, "eval", "--weights", weights, size, "--output", tmp_path / str(number))
        assert [outcome.code for outcome in outcomes] == [0] * number, outcomes
        assert all(outcome.out == "" for outcome in outcomes[1:])
    one, several = (sorted((tmp_path / str(number)).rglob("*")) for number in (1, count))
    assert [path.name for path in one] == [path.name for path in several]
    compared = [(a, b) for a, b in zip(one, several, strict=True) if a.suffix in (".json", ".csv", ".txt")]
    assert len(compared) >= 2
    for path, other in compared:
        assert path.read_bytes() == other.read_bytes(), path.name


@pytest.mark.parametrize(("num_images", "batch_size", "world_size"), [(0, 2, 2), (1, 2, 3), (7, 2, 3), (8, 3, 2)])
def test_shares_of_an_evaluation(num_images: int, batch_size: int, world_size: int) -> None:
    loader = EvalLoader([None] * num_images, batch_size)  # type: ignore[arg-type]
    shares = [loader.share(rank, world_size) for rank in range(world_size)]
    assert [batch for share, _ in shares for batch in share._batches] == loader._batches
    starts = [0]
    for share, start in shares:
        assert start == starts[-1]
        starts.append(start + sum(map(len, share._batches)))
    assert starts[-1] == num_images
