"""`detres find-lr` on the workshop's tiny data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detres.config import load_config
from tests.jobs.conftest import Outcome, Workshop

Detres = Callable[..., Outcome]
SHORT = ("--from", "1e-4", "--to", "1", "--steps", "12")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "find_lr.json").read_text())
    return found


def test_a_detectors_rate(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    before = files(workshop.runs)
    outcome = detres("find-lr", "--config", workshop.config, *SHORT, "--output", tmp_path / "a", "train.accumulate=2")
    assert outcome.code == 0, outcome.err
    assert files(workshop.runs) == before, "the run of this configuration stays as it is"
    assert sorted(files(tmp_path / "a")) == ["find_lr.json", "find_lr.png"]
    with Image.open(tmp_path / "a" / "find_lr.png") as image:
        assert image.width > 300
    found = read(tmp_path / "a")
    assert (found["config"], found["optimizer"], found["batch_size"], found["applied"]) == ("tiny", "sgd", 4, 1.0)
    rates = [point["lr"] for point in found["points"]]
    assert rates[0] == 1e-4 and rates[1] / rates[0] == pytest.approx(1e4 ** (1 / 11)) and len(rates) >= 5
    assert "sweeping train.optimizer.lr from 0.0001 to 1 in 12 steps" in outcome.out
    assert "values of train.optimizer.lr for batches of 4 images\n" in outcome.out
    assert str(tmp_path / "a" / "find_lr.png") in outcome.out

    again = detres("find-lr", "--config", workshop.config, *SHORT, "--output", tmp_path / "b", "train.accumulate=2")
    assert again.code == 0 and read(tmp_path / "b") == found, "the same seed, the same sweep"


def test_the_first_losses_are_those_of_the_run(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    rate = load_config(workshop.config).config.train.optimizer.lr * 0.001  # of the warm-up's first step
    bounds = ("--from", rate, "--to", 1, "--steps", 10)
    assert detres("find-lr", "--config", workshop.config, *bounds, "--output", tmp_path).code == 0
    rows = [json.loads(line) for line in (workshop.runs / "tiny" / "metrics.jsonl").read_text().splitlines()]
    logged = [row["loss"] for row in rows if row["kind"] == "train"][:2]
    assert [point["loss"] for point in read(tmp_path)["points"]][:2] == pytest.approx(logged, rel=1e-6)


def test_a_classifiers_rate_and_the_command_to_use_it(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    learnable = ("train.optimizer={type: adamw, lr: 1}", "train.optimizer.lr=0.5", "seed=3")
    options = ("--from", "1e-6", "--to", "0.1", "--steps", "40", "--output", tmp_path)
    outcome = detres("find-lr", *learnable, "--config", workshop.pretrain_config, *options)
    assert outcome.code == 0, outcome.err
    suggested = read(tmp_path)["suggestions"]
    assert set(suggested) == {"steepest descent", "tenth of the lowest"}, "Adam learns twenty crops by heart"
    assert 1e-6 < suggested["steepest descent"] < 0.1 and 1e-7 < suggested["tenth of the lowest"] < 0.01
    for rate in suggested.values():
        assert (
            f"python tools/pretrain.py --config {workshop.pretrain_config} "
            f"'train.optimizer={{type: adamw, lr: 1}}' seed=3 train.optimizer.lr={rate:.2g}\n"
        ) in outcome.out
        config = load_config(workshop.pretrain_config, [f"train.optimizer.lr={rate:.2g}"]).config
        assert config.train.optimizer.lr == pytest.approx(rate, rel=0.06)


@pytest.mark.parametrize(("rule", "applied"), [("linear", 0.25), ("sqrt", 0.5), ("none", 1.0)])
def test_the_scaling_to_the_batch_is_undone(
    workshop: Workshop, detres: Detres, tmp_path: Path, rule: str, applied: float
) -> None:
    options = ("train.batch_size=2", f"train.lr_scaling={rule}", "--steps", 10, "--to", 10)
    plain = ("--from", 1e-4 * applied, "--to", 10 * applied)
    command = ("find-lr", "--config", workshop.pretrain_config, *options)
    assert detres(*command, *plain, "--output", tmp_path / "a").code == 0
    scaled = ("--from", 1e-4, "train.reference_batch_size=8", "--output", tmp_path / "b")
    outcome = detres(*command, *scaled)
    assert outcome.code == 0, outcome.err
    direct, found = (read(tmp_path / name) for name in "ab")
    assert (found["batch_size"], found["images_per_step"], found["applied"]) == (8, 2, applied)
    assert (direct["batch_size"], direct["applied"]) == (2, 1.0)
    # The optimizer did the same at a rate of `applied` times the setting.
    assert len(found["points"]) == len(direct["points"])
    for point, other in zip(found["points"], direct["points"], strict=True):
        assert point["lr"] * applied == pytest.approx(other["lr"])
        assert point["loss"] == pytest.approx(other["loss"], rel=1e-3)
    for name, rate in found["suggestions"].items():
        assert rate * applied == pytest.approx(direct["suggestions"][name])
    text = f"batches of 8 images (reference_batch_size); at 2, the optimizer got {applied:g} of them"
    assert text in outcome.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "3"), "steps: got 3, expected at least 10"),
        (("--from", "1", "--to", "0.1"), "rates: got 1 to 0.1, expected two numbers above 0, the smaller one first"),
        (("--from", "0"), "rates: got 0 to 10"),
        (("--stop-above", "1"), "stop_above: got 1, expected more than 1"),
    ],
)
def test_mistakes(workshop: Workshop, detres: Detres, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    outcome = detres("find-lr", "--config", workshop.config, *options, "--output", tmp_path / "none")
    assert outcome.code == 1 and message in outcome.err and not (tmp_path / "none").exists()


def test_an_output_that_cannot_be(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    outcome = detres("find-lr", "--config", workshop.config, "--output", tmp_path / "file")
    assert outcome.code == 1 and "is a file, expected a folder: choose another one by --output" in outcome.err
    assert (tmp_path / "file").read_text() == "mine"
