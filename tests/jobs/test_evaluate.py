"""Evaluation of weights and of results files, at the level of the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detres as package
from detres import wiring
from detres.data.digits import CATEGORY_IDS
from detres.jobs.evaluate import Evaluator
from tests.jobs.conftest import Outcome, Workshop, run_detres

Detres = Callable[..., Outcome]


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())["metrics"]


def test_weights_and_their_results_file_give_the_same_numbers(
    workshop: Workshop, detres: Detres, tmp_path: Path
) -> None:
    run = workshop.runs / "tiny"
    outcome = detres(
        *("eval", "--config", workshop.config, "--weights", run / "best.pt"), *("--output", tmp_path / "weights")
    )
    assert outcome.code == 0 and "AP50" in outcome.out, outcome.err
    assert _metrics(tmp_path / "weights") == _metrics(run / "eval")
    rows = json.loads((tmp_path / "weights" / "detections.json").read_text())
    assert rows and {row["category_id"] for row in rows} <= set(CATEGORY_IDS)
    outcome = detres(
        *("eval", "--config", workshop.config, "--detections", tmp_path / "weights" / "detections.json"),
        *("--output", tmp_path / "file"),
    )
    assert outcome.code == 0, outcome.err
    assert _metrics(tmp_path / "file") == _metrics(run / "eval")


@pytest.mark.parametrize("backend", ["auto", "numpy", "pycocotools"])
def test_a_results_file_is_judged_as_pycocotools_does(
    real_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str
) -> None:
    """COCO's own example, without its images; scores and boxes must not pass through single precision."""
    monkeypatch.setenv("DETRES_DATASETS", str(real_data))
    folder = real_data / "eval" / "coco_val2014_100"
    truth = "{type: coco, annotations: eval/coco_val2014_100/instances_val2014_100.json, images: nowhere}"
    outcome = run_detres(
        *("eval", "--config", "coco_r18.yaml", f"data.val={truth}", f"eval.backend={backend}"),
        *("--detections", folder / "instances_val2014_fakebbox100_results.json", "--output", tmp_path),
    )
    assert outcome.code == 0, outcome.err
    assert _metrics(tmp_path) == json.loads((folder / "expected_pycocotools.json").read_text())["bbox"]


def test_weights_of_another_number_of_classes_are_not_judged(
    workshop: Workshop, detres: Detres, tmp_path: Path
) -> None:
    state = torch.load(workshop.runs / "tiny" / "best.pt", weights_only=True)["model"]
    for name in ("weight", "bias"):
        key = f"roi_heads.box_predictor.cls_score.{name}"
        state[key] = state[key][:-1]
    torch.save(state, tmp_path / "nine.pth")
    outcome = detres("eval", "--config", workshop.config, "--weights", tmp_path / "nine.pth")
    assert outcome.code == 1 and "cls_score" in outcome.err and "10 classes" in outcome.err
    assert not (tmp_path / "eval" / "results.json").exists()


def test_by_default_beside_the_weights(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    weights = tmp_path / "copy.pt"
    weights.write_bytes((workshop.runs / "tiny" / "last.pt").read_bytes())
    test = "data.test={type: coco, annotations: digits/annotations/instances_train.json, images: digits/train}"
    assert detres("eval", "--config", workshop.config, "--weights", weights).code == 0
    assert detres("eval", "--config", workshop.config, "--weights", weights, "--split", "test", test).code == 0
    assert (tmp_path / "eval" / "results.json").is_file() and (tmp_path / "eval_test" / "results.json").is_file()


def test_no_detections(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    outcome = detres("eval", "--config", workshop.config, "--detections", tmp_path / "none.json")
    assert outcome.code == 0, outcome.err
    metrics = _metrics(tmp_path / "eval")
    assert metrics["AP"] == 0.0 and metrics["APl"] is None, "the small scenes hold no large digit"
    refused = detres(
        *("eval", "--config", workshop.config, "--detections", tmp_path / "none.json", "eval.box_refinement={}")
    )
    assert refused.code == 1 and "eval.box_refinement: got settings for the results file" in refused.err


def test_a_voc_folder(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "VOC" / name).mkdir(parents=True)
    for stem in ("a", "b"):
        Image.new("RGB", (60, 40), (90, 90, 90)).save(tmp_path / "VOC" / "JPEGImages" / f"{stem}.jpg")
        (tmp_path / "VOC" / "Annotations" / f"{stem}.xml").write_text(
            "<annotation><size><width>60</width><height>40</height></size><object><name>3</name>"
            "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>25</xmax><ymax>30</ymax></bndbox></object></annotation>"
        )
    (tmp_path / "VOC" / "ImageSets" / "Main" / "test.txt").write_text("a\nb\n")
    outcome = detres(
        *("eval", "--config", workshop.config, "--weights", workshop.runs / "tiny" / "best.pt", "--split", "test"),
        *("--output", tmp_path / "out", "eval.metric=voc"),
        f"data.test={{type: voc, root: {tmp_path}/VOC, split: test}}",
    )
    assert outcome.code == 0, outcome.err
    metrics = _metrics(tmp_path / "out")
    assert metrics["AP50"] is not None and metrics["AP50_11point"] is not None
    assert (tmp_path / "out" / "comp4" / "comp4_det_test_3.txt").is_file()


def test_a_classifier(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    assert workshop.pretrained.code == 0 and "top1" in workshop.pretrained.out, workshop.pretrained.err
    run = workshop.runs / "pretrain"
    outcome = detres(
        *("eval", "--config", workshop.pretrain_config, "--weights", run / "best.pt", "--output", tmp_path)
    )
    assert outcome.code == 0 and "top1" in outcome.out, outcome.err
    assert _metrics(tmp_path) == _metrics(run / "eval")
    assert _metrics(tmp_path)["top1"] is not None


@pytest.mark.parametrize("kind", ["tiny", "pretrain"])
def test_fast_and_plain_computation_agree(workshop: Workshop, detres: Detres, tmp_path: Path, kind: str) -> None:
    weights = workshop.runs / kind / "best.pt"
    plain = "eval.inference={fold_norms: false, channels_last: false}"
    for name, setting in (("fast", "eval.batch_size=3"), ("plain", plain), ("half", "eval.precision=bfloat16")):
        outcome = detres("eval", "--weights", weights, setting, "--output", tmp_path / name)
        assert outcome.code == 0, outcome.err
    metric = "AP50" if kind == "tiny" else "top5"
    fast, other, half = (_metrics(tmp_path / name)[metric] for name in ("fast", "plain", "half"))
    assert fast == pytest.approx(other, abs=1e-3)
    assert half == pytest.approx(other, abs=0.1)


def test_an_evaluation_leaves_the_network_as_it_is(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRES_DATASETS", str(workshop.data))
    weights = workshop.runs / "tiny" / "best.pt"
    model, config, names = wiring.model_from_checkpoint(weights, overrides=["eval.precision=bfloat16"])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    Evaluator(config, wiring.build_eval_dataset(config, names), torch.device("cpu"))(model)
    assert model.training and all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_loaded_detector_can_be_made_fast(workshop: Workshop) -> None:
    weights, images = workshop.runs / "tiny" / "best.pt", workshop.data / "digits" / "test"
    files = sorted(images.glob("*.jpg"))
    plain = package.load(weights, device="cpu").predict(files, batch_size=2)
    detector = package.load(weights, device="cpu", overrides=["eval.inference.channels_last=false"])
    assert detector.optimize_for_inference() is detector
    assert detector.network.is_optimized
    assert detector.network.backbone.body.conv1.weight.is_contiguous()
    for one, other in zip(detector.predict(files, batch_size=2), plain, strict=True):
        assert len(one) == len(other)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-4)
    half = package.load(weights, device="cpu").optimize_for_inference(precision="bfloat16")
    assert half.precision == "bfloat16" and half.network.backbone.body.conv1.weight.dtype == torch.bfloat16
    assert len(half.predict(files[0]))


def test_predict_and_the_python_interface_agree(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    weights, images = workshop.runs / "tiny" / "best.pt", workshop.data / "digits" / "test"
    outcome = detres("predict", "--weights", weights, images, "--output", tmp_path, "--score-threshold", "0.0")
    assert outcome.code == 0, outcome.err
    listed = json.loads((tmp_path / "detections.json").read_text())
    files = sorted(images.glob("*.jpg"))
    assert [entry["file"] for entry in listed["images"]] == [str(file) for file in files]
    assert len(list(tmp_path.glob("*_detections.jpg"))) == 5
    detector = package.load(weights, device="cpu")
    assert detector.class_names == tuple("0123456789")
    as_array = np.asarray(Image.open(files[0]))
    for given in (str(files[0]), as_array, torch.from_numpy(as_array.copy()).permute(2, 0, 1)):
        found = detector.predict(given)
        assert len(found) == len(listed["images"][0]["detections"])
        expected = [row["box_xyxy"] for row in listed["images"][0]["detections"]]
        torch.testing.assert_close(found.boxes_xyxy, torch.tensor(expected).reshape(-1, 4))
    assert [len(found) for found in detector.predict(files)] == [len(e["detections"]) for e in listed["images"]]


def test_a_checkpoint_of_the_other_kind_is_named(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    classifier, detector = workshop.runs / "pretrain" / "best.pt", workshop.runs / "tiny" / "best.pt"
    outcome = detres("eval", "--config", workshop.config, "--weights", classifier, "--output", tmp_path)
    assert outcome.code == 1 and f"{classifier}: holds a classifier, but the configuration" in outcome.err
    assert f"model.backbone.weights={classifier}" in outcome.err
    outcome = detres("eval", "--config", workshop.pretrain_config, "--weights", detector, "--output", tmp_path)
    assert outcome.code == 1 and f"{detector}: holds a detector, but the configuration" in outcome.err


def test_a_data_set_of_other_classes_names_the_weights(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "zebra"
    folder.mkdir(parents=True)
    Image.new("RGB", (24, 24)).save(folder / "1.png")
    weights = workshop.runs / "pretrain" / "best.pt"
    outcome = detres("eval", "--weights", weights, f"data.val.root={folder.parent}", "--output", tmp_path / "eval")
    assert outcome.code == 1 and f"The weights, {weights}, know 10 classes" in outcome.err
