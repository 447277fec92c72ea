"""Detectors judged and used with test-time systems, at the level of the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import detres as package
from detres.engine.checkpoint import load_checkpoint, save_checkpoint
from tests.jobs.conftest import Outcome, Workshop, run_detres

Detres = Callable[..., Outcome]
REFINED = "eval.box_refinement={}"
SEVERAL = "eval.multi_scale={short: [64, 80, 112], region_size: 40}"
MIRRORED = "eval.augment={merge: wbf}"


def _found(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "detections.json").read_text())
    return rows


def _test_time(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text()).get("test_time")


@pytest.fixture
def weights(workshop: Workshop, tmp_path: Path) -> Path:
    """The workshop's detector, with classification rows that tell classes apart, and a threshold that drops most."""
    state = load_checkpoint(workshop.runs / "tiny" / "best.pt")
    generator = torch.Generator().manual_seed(1)
    for tensors in (state["model"], state["ema"] or {}):
        for key in [key for key in tensors if "cls_score.weight" in key]:
            tensors[key] = torch.randn(tensors[key].shape, generator=generator.manual_seed(1)) * 0.3
    state["config"]["model"]["roi_heads"]["score_threshold"] = 0.1
    save_checkpoint(tmp_path / "net.pt", state)
    return tmp_path / "net.pt"


def _turned(weights: Path) -> Path:
    """The same network with its classes in reverse order."""
    state = load_checkpoint(weights)
    count = len(state["class_names"])
    rows = [*range(count)][::-1]
    for tensors in (state["model"], state["ema"] or {}):
        for kind in ("weight", "bias"):
            key = f"roi_heads.box_predictor.cls_score.{kind}"
            tensors[key] = tensors[key][[*rows, count]]
            key = f"roi_heads.box_predictor.bbox_pred.{kind}"
            tensors[key] = tensors[key].unflatten(0, (count, 4))[rows].flatten(0, 1)
    state["class_names"] = state["class_names"][::-1]
    save_checkpoint(weights.with_name("turned.pt"), state)
    return weights.with_name("turned.pt")


def test_each_setting_on_any_checkpoint(detres: Detres, weights: Path, tmp_path: Path) -> None:
    """Settings that are off change nothing, not a bit; every one that is on changes something and is written down."""
    assert detres("eval", "--weights", weights, "--output", tmp_path / "plain").code == 0
    plain = _found(tmp_path / "plain")
    assert len(plain) > 10 and _test_time(tmp_path / "plain") is None
    off = ("eval.box_refinement=false", "eval.multi_scale=null", "eval.augment=null")
    assert detres("eval", "--weights", weights, *off, "--output", tmp_path / "off").code == 0
    assert (tmp_path / "off" / "detections.json").read_bytes() == (tmp_path / "plain" / "detections.json").read_bytes()
    for name, settings in (
        ("refined", [REFINED]),
        ("true", ["eval.box_refinement=true"]),
        ("several", [SEVERAL]),
        ("mirrored", [MIRRORED, "eval.metric=voc"]),
        ("all", [REFINED, SEVERAL, "eval.augment={short: [64, 90], merge: soft_nms}", "data.workers=1"]),
    ):
        outcome = detres("eval", "--weights", weights, *settings, "--output", tmp_path / name)
        assert outcome.code == 0, outcome.err
        assert _found(tmp_path / name) and _found(tmp_path / name) != plain
    assert _found(tmp_path / "refined") == _found(tmp_path / "true")
    assert _test_time(tmp_path / "refined") == {"box_refinement": {"rounds": 1, "nms_iou": 0.3, "voting_iou": 0.5}}
    assert list(_test_time(tmp_path / "all")) == ["box_refinement", "multi_scale", "augment"]


def test_copies_of_a_detector_are_the_detector(detres: Detres, weights: Path, tmp_path: Path) -> None:
    """Two copies, and one whose classes are named in reverse order: what one of them finds."""
    assert detres("eval", "--weights", weights, "--output", tmp_path / "one").code == 0
    outcome = detres("eval", "--weights", weights, weights, _turned(weights), "--output", tmp_path / "three")
    assert outcome.code == 0, outcome.err
    one, three = _found(tmp_path / "one"), _found(tmp_path / "three")
    assert len(one) == len(three) > 10
    for a, b in zip(one, three, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        assert a["score"] == pytest.approx(b["score"], abs=1e-4) and a["bbox"] == pytest.approx(b["bbox"], abs=0.02)


def test_members_of_other_forms_and_pixel_conventions(
    workshop: Workshop, detres: Detres, weights: Path, tmp_path: Path
) -> None:
    c4 = [
        "model.backbone={type: resnet, depth: 18, out_features: [c4]}",
        "model.neck=null",
        "model.anchors.sizes=[[16, 40]]",
        "model.roi_heads.box_head={type: conv5}",
        "model.roi_heads.class_agnostic=true",
        "model.pixels={channel_order: bgr, mean: [103.5, 116.3, 123.7], std: [1, 1, 1], size_divisibility: 0}",
    ]
    trained = detres("train", "--config", workshop.config, *c4, "train.steps=1", f"output={tmp_path}/c4")
    assert trained.code == 0, trained.err
    files = ("--weights", weights, tmp_path / "c4" / "last.pt")
    settings = (REFINED, SEVERAL, "eval.augment=true", "model.roi_heads.score_threshold=0.02")
    outcome = detres("eval", *files, *settings, "--output", tmp_path / "both")
    assert outcome.code == 0, outcome.err
    assert _found(tmp_path / "both")
    turned = load_checkpoint(weights)
    turned["class_names"] = [*turned["class_names"][:-1], "cow"]
    save_checkpoint(tmp_path / "cow.pt", turned)
    outcome = detres("eval", "--weights", weights, tmp_path / "cow.pt", "--output", tmp_path / "cow")
    assert outcome.code == 1 and "cow.pt" in outcome.err and "'cow'" in outcome.err


def test_prediction_takes_them_too(workshop: Workshop, detres: Detres, weights: Path, tmp_path: Path) -> None:
    """What eval finds with a system, predict and the Python interface find, by overrides and from the checkpoint."""
    images = workshop.data / "digits" / "test"
    settings = (REFINED, SEVERAL, MIRRORED)
    assert detres("eval", "--weights", weights, *settings, "eval.batch_size=1", "--output", tmp_path / "eval").code == 0
    expected = _found(tmp_path / "eval")
    output = ("--output", tmp_path / "predict", "--score-threshold", "0")
    outcome = detres("predict", "--weights", weights, images, *settings, *output)
    assert outcome.code == 0, outcome.err
    listed = json.loads((tmp_path / "predict" / "detections.json").read_text())["images"]
    scores = [found["score"] for entry in listed for found in entry["detections"]]
    assert sorted(scores) == pytest.approx(sorted(row["score"] for row in expected), abs=1e-5)
    file = sorted(images.glob("*.jpg"))[0]
    found = package.load(weights, device="cpu", overrides=settings).predict(file)
    boxes = torch.tensor([each["box_xyxy"] for each in listed[0]["detections"]]).reshape(-1, 4)
    torch.testing.assert_close(found.boxes_xyxy, boxes, rtol=1e-4, atol=1e-3)
    state = load_checkpoint(weights)
    state["config"]["eval"]["box_refinement"] = {}
    state["config"]["eval"]["augment"] = {"merge": "wbf"}
    state["config"]["eval"]["multi_scale"] = {"short": [64, 80, 112], "region_size": 40}
    save_checkpoint(tmp_path / "with.pt", state)
    stored = package.load(tmp_path / "with.pt", device="cpu").predict(file)
    assert torch.equal(stored.boxes_xyxy, found.boxes_xyxy)


def test_classifiers_refuse_them(workshop: Workshop, detres: Detres) -> None:
    weights = workshop.runs / "pretrain" / "best.pt"
    for override in (REFINED, "eval.multi_scale={}", "eval.augment={}"):
        outcome = detres("eval", "--weights", weights, override)
        key = override.partition("=")[0]
        assert outcome.code == 1 and f"{key}: got settings, expected null: it is for detectors" in outcome.err


def test_a_run_may_be_judged_with_a_system(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    outcome = run_detres(
        *(
            "train",
            "--config",
            workshop.config,
            REFINED,
            "train.steps=1",
            f"output={tmp_path}/run",
            "train.val_loss=true",
        )
    )
    assert outcome.code == 0, outcome.err
    assert _test_time(tmp_path / "run" / "eval") is not None
