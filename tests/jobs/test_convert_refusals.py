"""What `detres convert` refuses, and what it says then."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import detres
from detres import wiring
from detres.config import config_to_dict, load_config
from detres.engine.checkpoint import save_checkpoint
from detres.files.restricted import read_pickle
from tests.jobs.conftest import Workshop
from tests.jobs.test_convert import convert, detectron2_file


def test_what_does_not_fit_is_listed_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = tmp_path / "model.pkl", tmp_path / "out.pt"
    detectron2_file(path)
    content = read_pickle(path)
    del content["model"]["roi_heads.box_predictor.bbox_pred.bias"]
    content["model"]["roi_heads.mask_head.deconv.weight"] = np.zeros(3, dtype=np.float32)
    path.write_bytes(pickle.dumps(content))
    assert convert("--from", "detectron2", path, "--to", "detres", target) == 1
    assert "roi_heads.mask_head.deconv.weight" in capsys.readouterr().err
    assert convert("--from", "detectron2", path, "--to", "detres", target, "--ignore", r"roi_heads\.mask_head") == 1
    assert "Missing in the file: roi_heads.box_predictor.bbox_pred.bias" in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--from", "caffe3", "a.pkl", "--to", "detres", "b.pt"), "format 'caffe3' is unknown; expected one of detres"),
        (("--from", "detectron2", "a.pkl", "--to", "detres", "b.pkl"), "b.pkl: files of detres end in .pt or .pth"),
        (("--from", "detectron2", "a.pkl", "--to", "caffe", "b.caffemodel"), "reads files of caffe and writes none"),
        (("--from", "detectron2", "none.pkl", "--to", "detres", "b.pt"), "none.pkl: does not exist"),
        (("--from", "detectron2", "a.pkl", "--to", "detres", "b.pt", "--ignore", "("), "expected a regular expression"),
    ],
)
def test_wrong_words(arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(*arguments) == 1
    assert text in capsys.readouterr().err


def test_the_file_that_is_read_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    before = path.read_bytes()
    assert convert("--from", "torchvision", path, "--to", "detres", path) == 1
    assert "is the file to read; choose another name" in capsys.readouterr().err and path.read_bytes() == before


def test_a_detector_is_not_written_as_a_classifier(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("--from", "detres", workshop.runs / "tiny" / "best.pt", "--to", "timm", tmp_path / "a.pth") == 1
    assert "timm has classifiers only, and" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_backbones_alone_are_whole_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    body = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    conv4 = {key: tensor for key, tensor in body.items() if not key.startswith("layer4.")}
    source, target = tmp_path / "a.pth", tmp_path / "b.pkl"
    for tensors in (body, conv4):
        torch.save(tensors, source)
        assert convert("--from", "torchvision", source, "--to", "detectron2", target) == 0
        counters = {key for key in tensors if key.endswith("num_batches_tracked")}
        assert len(read_pickle(target)["model"]) == len(tensors) and counters
        target.unlink()
    torch.save(
        {**{key: t for key, t in body.items() if key != "layer4.1.conv2.weight"}, "decoder.weight": state["fc.weight"]},
        source,
    )
    assert convert("--from", "torchvision", source, "--to", "detectron2", target) == 1
    err = capsys.readouterr().err
    assert "Missing in the file: backbone.layer4.1.conv2.weight. Left over: backbone.decoder.weight" in err
    torch.save({**body, "fc.bias": state["fc.bias"]}, source)
    assert convert("--from", "torchvision", source, "--to", "detectron2", target) == 1
    assert "Missing in the file: fc.weight" in capsys.readouterr().err
    assert not target.exists()


def test_parts_of_a_detector_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detectron2_file(tmp_path / "a.pkl")
    content = read_pickle(tmp_path / "a.pkl")
    for part in ("roi_heads.box_predictor.cls_score.weight", "proposal_generator.rpn_head.objectness_logits.weight"):
        left = {key: array for key, array in content["model"].items() if key != part}
        (tmp_path / "b.pkl").write_bytes(pickle.dumps({"model": left}))
        assert convert("--from", "detectron2", tmp_path / "b.pkl", "--to", "detres", tmp_path / "c.pt") == 1
        assert "b.pkl, read as detectron2: a detector without" in capsys.readouterr().err
    torch.save(
        {"model": {**{k: torch.from_numpy(a) for k, a in content["model"].items()}, "mask.x": torch.ones(1)}},
        tmp_path / "d.pth",
    )
    with pytest.raises(ValueError, match=r"d\.pth, read as detectron2: .* no place in it: mask\.x"):
        detres.load(tmp_path / "d.pth", "cpu")


def test_an_adapters_detector_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = '{type: "detres.integrations.torchvision:TorchvisionBackbone", args: {model: resnet18}}'
    config = load_config("coco_r18.yaml", [f"model.backbone={adapter}"]).config
    model = wiring.build_model(config, 1)
    state = {"config": config_to_dict(config), "class_names": ["a"], "model": model.state_dict(), "ema": None}
    save_checkpoint(tmp_path / "last.pt", {"kind": "detector", **state})
    assert convert("--from", "detres", tmp_path / "last.pt", "--to", "torchvision", tmp_path / "b.pth") == 1
    assert "other toolkits get ResNets and VGG alone" in capsys.readouterr().err
    assert not (tmp_path / "b.pth").exists()


def test_another_format_than_named_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "plain.pt")
    assert convert("--from", "detres", tmp_path / "plain.pt", "--to", "torchvision", tmp_path / "b.pth") == 1
    assert "is not a detres checkpoint" in capsys.readouterr().err
