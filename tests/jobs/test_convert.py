"""`detres convert`: files of other toolkits in, ours out, and what is wrong with either."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

import detres
from detres import wiring
from detres.api import Detector, ImageClassifier
from detres.cli import main
from detres.config import config_to_dict, load_config
from detres.detector import FasterRCNN
from detres.engine.checkpoint import load_checkpoint, save_checkpoint
from detres.files.restricted import read_pickle
from tests.detector.test_torchvision_parity import paired
from tests.detector.torchvision_twin import images_and_batch, torchvision_model
from tests.jobs.conftest import Workshop

AS_TWIN = ["model.roi_heads.score_threshold=0.005", "model.roi_heads.detections_per_image=10000"]


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key


def _with_labels(boxes: Tensor, labels: Tensor) -> Tensor:
    """Rows (D, 5) by which detections of equal scores, whose order is open, can be paired."""
    return torch.cat([boxes, 100.0 * labels[:, None]], dim=1)


@pytest.mark.parametrize("version", [1, 2])
def test_torchvisions_detectors_there_and_back(version: int, tmp_path: Path) -> None:
    """Through the converted file the boxes are torchvision's own, and the way back gives its very tensors."""
    theirs = torchvision_model(version, 120, box_score_thresh=0.005, box_detections_per_img=10000)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours, back = tmp_path / "ours.pt", tmp_path / "back.pth"
    assert convert("--from", "torchvision", tmp_path / "theirs.pth", "--to", "detres", ours, *AS_TWIN) == 0
    detector = detres.load(ours, "cpu")
    assert isinstance(detector, Detector) and detector.class_names == tuple(f"class {i}" for i in range(5))
    images, batch = images_and_batch([(120, 150), (128, 120)])
    with torch.no_grad():
        wanted, found = theirs(images), batch.to_original(detector.network.predict(batch))
    for w, f in zip(wanted, found, strict=True):
        labels = w["labels"] - 1
        row = paired(_with_labels(f.boxes_xyxy, f.labels), _with_labels(w["boxes"], labels))
        assert len(labels) > 50 and torch.equal(f.labels[row], labels)
        torch.testing.assert_close(f.boxes_xyxy[row], w["boxes"], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(f.scores[row], w["scores"], rtol=1e-3, atol=1e-5)
    assert convert("--from", "detres", ours, "--to", "torchvision", back) == 0
    same(torch.load(back, weights_only=True), theirs.state_dict())


def test_a_classifier_of_torchvisions_keeps_its_logits_and_gets_imagenets_classes(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    assert convert("--from", "torchvision", tmp_path / "resnet18.pth", "--to", "detres", tmp_path / "ours.pt") == 0
    classifier = detres.load(tmp_path / "ours.pt", "cpu")
    assert isinstance(classifier, ImageClassifier) and classifier.class_names[281] == "n02123045 tabby"
    assert load_checkpoint(tmp_path / "ours.pt")["class_names"][281] == "n02123045"
    assert convert("--from", "detres", tmp_path / "ours.pt", "--to", "timm", tmp_path / "timm.safetensors") == 0
    assert convert("--from", "timm", tmp_path / "timm.safetensors", "--to", "torchvision", tmp_path / "back.pth") == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in theirs.state_dict().items())


def test_published_weights_of_torchvisions_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = "torchvision:ResNet18_Weights.IMAGENET1K_V1"
    assert convert("--from", "torchvision", name, "--to", "detres", tmp_path / "ours.pt") == 0
    for path in (tmp_path / "ours.pt", name):
        classifier = detres.load(path, "cpu")
        assert isinstance(classifier, ImageClassifier) and classifier.class_names[0] == "n01440764 tench"
        assert torch.equal(classifier.network.fc.weight, state["fc.weight"])


def detectron2_file(path: Path, name: str = "coco_r50.yaml", classes: int = 3) -> FasterRCNN:
    """A random detector of ours in detectron2's names and in its pickle."""
    overrides = ["model.backbone.weights=null", "model.backbone.depth=18"]
    model = wiring.build_model(load_config(name, overrides).config, classes)
    from detres.weights.formats import detectron2

    arrays = {key: tensor.numpy() for key, tensor in detectron2.from_detres(model.state_dict()).items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    assert isinstance(model, FasterRCNN)
    return model


def test_a_pickle_of_detectron2_is_loaded_as_it_is(tmp_path: Path) -> None:
    """detres.load, model.weights and model.backbone.weights take the foreign file itself."""
    path = tmp_path / "model_final.pkl"
    model = detectron2_file(path)
    detector = detres.load(path, "cpu")
    assert isinstance(detector, Detector)
    assert (detector.network.pixels.channel_order, detector.network.pixels.mean[0, 0, 0, 0].item()) == (
        "bgr",
        pytest.approx(103.53),
    )
    same(detector.network.state_dict(), model.state_dict())
    detector.predict(np.zeros((64, 80, 3), dtype=np.uint8))
    config = load_config("coco_r18.yaml", [f"model.backbone.weights={path}"]).config
    started = wiring.build_model(config, 2)
    with pytest.warns(UserWarning, match=r"set model\.pixels\.mean=\[103\.53,116\.28,123\.675\]"):
        wiring.load_initial_weights(started, config, ("a", "b"))
    assert torch.equal(started.backbone.body.layer3[0].conv1.weight, model.backbone.body.layer3[0].conv1.weight)


def test_detectron2_there_and_back_in_both_of_its_files(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    detectron2_file(path, "coco_r50_dc5.yaml")
    assert convert("--from", "detectron2", path, "--to", "detres", tmp_path / "ours.pt") == 0
    for back in (tmp_path / "back.pkl", tmp_path / "back.pth"):
        assert convert("--from", "detres", tmp_path / "ours.pt", "--to", "detectron2", back) == 0
    wanted = read_pickle(path)["model"]
    found = read_pickle(tmp_path / "back.pkl")["model"]
    tensors = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert found.keys() == wanted.keys() == tensors.keys()
    for key, array in wanted.items():
        assert np.array_equal(found[key], array) and torch.equal(tensors[key], torch.from_numpy(array)), key


def test_from_detectron2_to_mmdetection_by_way_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detectron2_file(tmp_path / "a.pkl", "coco_r50_c4.yaml")
    assert convert("--from", "detectron2", tmp_path / "a.pkl", "--to", "mmdetection", tmp_path / "b.pth") == 0
    out = capsys.readouterr().out
    assert "for the same results in mmdetection:" in out and "assumed:" in out
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert content["meta"]["dataset_meta"]["classes"] == ["class 0", "class 1", "class 2"]
    assert "roi_head.shared_head.layer4.0.conv1.weight" in content["state_dict"]


def test_a_trained_detector_of_ours_goes_to_torchvision_itself(workshop: Workshop, tmp_path: Path) -> None:
    """The exported tensors are those of the torchvision model that makes the same boxes (integrations)."""
    from detres.integrations.torchvision import to_torchvision

    detector = detres.load(workshop.runs / "tiny" / "best.pt", "cpu")
    assert isinstance(detector, Detector)
    picture = np.asarray(Image.open(next((workshop.data / "digits" / "test").glob("*.jpg"))).convert("RGB"))
    found = detector.predict(picture)
    side = min(picture.shape[:2])
    theirs = to_torchvision(detector, min_size=side, max_size=10 * side)
    with torch.no_grad():
        (wanted,) = theirs([torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255])
    assert len(found) > 0 and torch.equal(wanted["labels"] - 1, found.labels)
    torch.testing.assert_close(wanted["boxes"], found.boxes_xyxy, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(wanted["scores"], found.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("format", "file"),
    [("detectron2", "a.pkl"), ("detectron2", "a.pth"), ("mmdetection", "a.pth"), ("torchvision", "a.safetensors")],
)
def test_an_export_comes_back_to_the_model_that_it_was(
    format: str, file: str, workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its anchors are none that the other toolkits have; a note in the file remembers them, and the class names."""
    trained = workshop.runs / "tiny" / "best.pt"
    assert convert("--from", "detres", trained, "--to", format, tmp_path / file) == 0
    assert convert("--from", format, tmp_path / file, "--to", "detres", tmp_path / "back.pt") == 0
    assert "assumed" not in capsys.readouterr().out
    before, after = load_checkpoint(trained), load_checkpoint(tmp_path / "back.pt")
    for state in (before, after):
        state["config"]["model"]["backbone"]["weights"] = None
    assert after["config"]["data"]["eval_transforms"] == before["config"]["data"]["eval_transforms"]
    assert after["config"]["model"] == before["config"]["model"] and after["class_names"] == before["class_names"]
    same(after["model"], {key: before["ema"][key] for key in after["model"]})


def test_what_is_told_is_not_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detectron2_file(tmp_path / "a.pkl")
    arguments = ("--from", "detectron2", tmp_path / "a.pkl", "--to", "detres", tmp_path / "a.pt")
    assert convert(*arguments, "model.pixels.channel_order=bgr", "data.eval_transforms=[]") == 0
    out = capsys.readouterr().out
    assert "assumed: counts" in out and "pixels in the order" not in out and "images go" not in out


@pytest.mark.parametrize("setting", ["cascade={}", "global_context=true"])
def test_heads_that_the_formats_do_not_hold_are_refused(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["model.backbone.weights=null", "model.backbone.depth=18", "model.neck.channels=8"]
    config = load_config("coco_r50.yaml", [*overrides, f"model.roi_heads.{setting}"]).config
    model = wiring.build_model(config, 2)
    header = {"kind": "detector", "config": config_to_dict(config), "class_names": ["a", "b"]}
    save_checkpoint(tmp_path / "ours.pt", {**header, "model": model.state_dict(), "ema": None, "metrics": {}})
    assert isinstance(detres.load(tmp_path / "ours.pt", "cpu"), Detector)
    for target in ("detectron2", "mmdetection", "torchvision"):
        assert convert("--from", "detres", tmp_path / "ours.pt", "--to", target, tmp_path / "theirs.pth") == 1
        key = f"model.roi_heads.{setting.split('=')[0]}"
        assert f"{key}: detres does not write such heads as {target}" in capsys.readouterr().err
    assert not (tmp_path / "theirs.pth").exists()


def test_a_classifier_comes_back_from_every_format(workshop: Workshop, tmp_path: Path) -> None:
    """By the note that the file carries: settings, class names and what images go through."""
    trained = workshop.runs / "pretrain" / "best.pt"
    before = load_checkpoint(trained)
    for format, file in (("msra", "a.pkl"), ("detectron2", "b.pkl"), ("mmdetection", "c.pth"), ("torchvision", "d.pth"),
                         ("timm", "e.safetensors")):  # fmt: skip
        assert convert("--from", "detres", trained, "--to", format, tmp_path / file) == 0
        classifier = detres.load(tmp_path / file, "cpu")
        assert isinstance(classifier, ImageClassifier)
        assert classifier.class_names == tuple(before["class_names"]), format
        assert convert("--from", format, tmp_path / file, "--to", "detres", tmp_path / "back.pt") == 0
        back = load_checkpoint(tmp_path / "back.pt")
        assert back["config"]["model"] == before["config"]["model"]
        assert back["config"]["data"]["eval_transforms"] == before["config"]["data"]["eval_transforms"]
        assert all(torch.equal(back["model"][key], (before["ema"] or before["model"])[key]) for key in back["model"])


def test_a_turned_network_comes_back_as_it_was(tmp_path: Path) -> None:
    """torchvision's pixels are RGB: the first convolution is turned on the way out, and back on the way in."""
    detectron2_file(tmp_path / "a.pkl")
    for source, target in (("detectron2 a.pkl", "torchvision b.pth"), ("torchvision b.pth", "detectron2 c.pkl")):
        pairs = [[format, tmp_path / file] for format, file in (source.split(), target.split())]
        assert convert("--from", *pairs[0], "--to", *pairs[1]) == 0
    turned = torch.load(tmp_path / "b.pth", weights_only=True)["backbone.body.conv1.weight"]
    first, last = (read_pickle(tmp_path / name)["model"] for name in ("a.pkl", "c.pkl"))
    assert first.keys() == last.keys() and all(np.array_equal(first[key], last[key]) for key in first)
    assert np.array_equal(turned.flip(1).numpy(), first["backbone.bottom_up.stem.conv1.weight"])
