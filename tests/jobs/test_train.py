"""From a configuration to a run directory, at the level of the commands."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import detres as package
from detres import wiring
from detres.config import load_config
from detres.engine.checkpoint import load_checkpoint
from detres.engine.progress import PlainReporter
from detres.engine.records import Summary
from detres.engine.trainer import Trainer
from tests.jobs.conftest import Outcome, Workshop

Detres = Callable[..., Outcome]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    return bool(first == second)


def test_files_of_a_run(workshop: Workshop) -> None:
    assert workshop.trained.code == 0, workshop.trained.err
    run = workshop.runs / "tiny"
    made = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert made >= {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "curves.png",
        "last.pt",
        "best.pt",
        "step_00000003.pt",
        "eval/results.json",
        "eval/detections.json",
        "eval/precision_recall.png",
        "eval/class_ap.png",
        "eval/pictures.png",
    }
    assert any(name.startswith("tensorboard/") for name in made)
    assert not [name for name in made if "partial" in name]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 1),
        ("train", 2),
        ("val", 2),
        ("train", 3),
        ("val", 3),
    ]
    assert {"AP", "AP50", "APs", "AR100"} <= rows[-1].keys()
    assert json.loads((run / "environment.json").read_text())[0]["from_step"] == 0
    assert load_config(run / "config.yaml").config == load_config(workshop.config).config
    results = json.loads((run / "eval" / "results.json").read_text())
    assert set(results["metrics"]) == {
        *("AP", "AP50", "AP75", "APs", "APm", "APl"),
        *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
    }
    for picture in ("curves.png", "eval/pictures.png"):
        with Image.open(run / picture) as image:
            assert image.width > 100


def test_what_a_run_says(workshop: Workshop) -> None:
    out = workshop.trained.out
    assert "train: 9 images, 10 classes" in out and "val: 5 images, 10 classes" in out
    assert "pretrain/best.pt: " in out and "loaded" in out  # the backbone's weights
    assert "trained 3 steps" in out and "AP50" in out and str(workshop.runs / "tiny" / "eval" / "results.json") in out
    assert "evaluation after step 2: AP " in out
    assert workshop.trained.err == ""


def test_a_checkpoint_knows_its_classes_and_configuration(workshop: Workshop) -> None:
    state = load_checkpoint(workshop.runs / "tiny" / "best.pt", kind="detector")
    assert state["class_names"] == [str(digit) for digit in range(10)]
    assert state["config"]["train"]["batch_size"] == 4 and state["ema"] is not None


def test_the_detector_starts_from_the_pretrained_backbone(workshop: Workshop, detres: Detres) -> None:
    config = load_config(workshop.config).config
    model = wiring.build_model(config, 10)
    wiring.load_initial_weights(model, config, [str(digit) for digit in range(10)])
    pretrained = load_checkpoint(workshop.runs / "pretrain" / "best.pt")["model"]
    assert torch.equal(
        model.state_dict()["backbone.body.layer2.1.conv2.weight"], pretrained["backbone.layer2.1.conv2.weight"]
    )


def test_another_run_in_the_folder_is_refused(workshop: Workshop, detres: Detres) -> None:
    before = (workshop.runs / "tiny" / "last.pt").read_bytes()
    outcome = detres("train", "--config", workshop.config)
    assert outcome.code == 1 and "holds another run" in outcome.err and "--resume" in outcome.err
    assert (workshop.runs / "tiny" / "last.pt").read_bytes() == before


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_and_resumed_equals_uninterrupted(
    workshop: Workshop, detres: Detres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_number: int
) -> None:
    log = PlainReporter.log

    def log_and_be_stopped(self: PlainReporter, step: int, values: Mapping[str, float | None]) -> None:
        log(self, step, values)
        os.kill(os.getpid(), signal_number)

    monkeypatch.setattr(PlainReporter, "log", log_and_be_stopped)
    arguments = ("train", "--config", workshop.config, f"output={tmp_path}")
    outcome = detres(*arguments)
    assert outcome.code == 128 + signal_number and "last.pt is written, --resume goes on from there" in outcome.err
    assert load_checkpoint(tmp_path / "last.pt")["progress"]["step"] == 1
    monkeypatch.setattr(PlainReporter, "log", log)
    outcome = detres(*arguments, "--resume")
    assert outcome.code == 0 and "at step 1" in outcome.out, outcome.err
    resumed, whole = (load_checkpoint(folder / "last.pt") for folder in (tmp_path, workshop.runs / "tiny"))
    for part in ("model", "ema", "optimizer", "metrics"):
        assert _same(resumed[part], whole[part]), part
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2, 3, 3]
    assert [start["from_step"] for start in json.loads((tmp_path / "environment.json").read_text())] == [0, 1]


def test_voc_metric_and_validation_loss(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    outcome = detres(
        *("train", "--config", workshop.config, f"output={tmp_path}"),
        *("eval.metric=voc", "train.val_loss=true", "train.steps=1", "train.eval_every=null"),
    )
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "eval" / "results.json").read_text())["metrics"]
    assert {"AP50", "AP50_11point"} <= metrics.keys()
    assert len(list((tmp_path / "eval" / "comp4").glob("comp4_det_val_*.txt"))) == 10
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "val" and last["val_loss"] > 0 and last["val_loss_classifier"] > 0
    assert "evaluation after step 1: AP50 " in outcome.out, "AP50 decides by default"


def _other_classes(workshop: Workshop, path: Path) -> list[str]:
    """The training scenes with "3", "7", and "1" under the name "one"; returns overrides that use them."""
    content = json.loads((workshop.data / "digits/annotations/instances_train.json").read_text())
    names = {"1": "one", "3": "3", "7": "7"}
    content["categories"] = [
        {**category, "name": names[category["name"]]} for category in content["categories"] if category["name"] in names
    ]
    kept = {category["id"] for category in content["categories"]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] in kept]
    path.write_text(json.dumps(content))
    return [f"data.{split}={{type: coco, annotations: {path}, images: digits/train}}" for split in ("train", "val")]


@pytest.mark.parametrize(("content", "told"), [(b"PK", "truncated"), (None, "has no best.pt, of step ")])
def test_best_weights_that_are_lost_do_not_end_a_run_without_its_evaluation(
    workshop: Workshop,
    detres: Detres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    told: str,
) -> None:
    run, real = tmp_path / "run", Trainer.run

    def run_and_lose_the_best(trainer: Trainer) -> Summary:
        summary = real(trainer)
        assert summary.best is not None and summary.best_checkpoint is not None
        summary.best_checkpoint.unlink()
        if content is None:
            return replace(summary, best_checkpoint=None)
        summary.best_checkpoint.write_bytes(content)
        return summary

    shutil.copytree(workshop.runs / "tiny", run)
    monkeypatch.setattr(Trainer, "run", run_and_lose_the_best)
    outcome = detres("train", "--config", workshop.config, f"output={run}", "--resume")
    assert outcome.code == 0, outcome.err
    assert told in outcome.err and "The evaluation is of last.pt, step 3" in outcome.err
    assert "the table is of the last weights" in outcome.out and str(run / "last.pt") in outcome.out


def test_fine_tuning_to_other_classes(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    best = workshop.runs / "tiny" / "best.pt"
    overrides = [*_other_classes(workshop, tmp_path / "other.json"), f"model.weights={best}", "train.steps=1"]
    outcome = detres("train", "--config", workshop.config, *overrides, f"output={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert "classes kept:           2 (3, 7)" in outcome.out
    assert "classes re-initialised: 1 (one)" in outcome.out
    config = load_config(workshop.config, overrides).config
    fresh, model = (wiring.build_model(config, 3) for _ in range(2))
    wiring.load_initial_weights(model, config, ["one", "3", "7"])
    rows, initial = (m.roi_heads.box_predictor.cls_score.weight for m in (model, fresh))
    trained = package.load(best, device="cpu").network.roi_heads.box_predictor.cls_score.weight
    assert torch.equal(rows[[1, 2, 3]], trained[[3, 7, 10]]) and torch.equal(rows[0], initial[0])
    assert load_checkpoint(tmp_path / "run" / "last.pt")["class_names"] == ["one", "3", "7"]


def test_dropped_boxes_are_told_once(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    crop = "data.train_transforms=[{type: random_crop, height: 24, width: 24}]"
    outcome = detres("train", "--config", workshop.config, crop, f"output={tmp_path}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("the transforms cut away") == 2 and outcome.out.count("dropped in all: ") == 1


def test_a_mean_image_that_was_loaded_stays(workshop: Workshop, detres: Callable[..., Outcome], tmp_path: Path) -> None:
    pixels = "model.pixels={per_pixel_mean: 24, size_divisibility: 1}"
    first = [pixels, "train.steps=1", f"output={tmp_path / 'first'}"]
    assert detres("pretrain", "--config", workshop.pretrain_config, *first).code == 0
    start = torch.load(tmp_path / "first" / "last.pt", weights_only=True)
    taken = start["model"]["pixels.mean_image"].clone()
    assert taken.shape == (3, 24, 24) and taken.std() > 1
    start["model"]["pixels.mean_image"] += 5
    torch.save(start, tmp_path / "other.pt")
    second = [*first[:2], f"model.weights={tmp_path / 'other.pt'}", f"output={tmp_path / 'second'}"]
    outcome = detres("pretrain", "--config", workshop.pretrain_config, *second)
    assert outcome.code == 0 and "taking the mean" not in outcome.out, outcome.err
    found = torch.load(tmp_path / "second" / "last.pt", weights_only=True)["model"]["pixels.mean_image"]
    torch.testing.assert_close(found, taken + 5)
