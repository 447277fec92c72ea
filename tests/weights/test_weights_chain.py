"""The chain: a pretrained classifier's file named as `model.backbone.weights` of every form of detector."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from detres import wiring
from detres.classifier import Classifier
from detres.config import config_to_dict, load_config
from detres.detector import FasterRCNN
from detres.engine.checkpoint import load_checkpoint, save_checkpoint
from detres.weights import LoadReport, WeightsError, read_state_dict
from detres.weights.agreement import backbone_mismatch
from detres.weights.sources import LoadedWeights

FORMS = {"coco_r50.yaml": "backbone.body.", "coco_r50_c4.yaml": "backbone.", "coco_r50_dc5.yaml": "backbone."}
SOURCES = ["detres", ".pth", ".safetensors", ".npz"]
CLASSIFIER = ["model.backbone.depth=18", "model.backbone.out_features=[c5]", "model.backbone.weights=null"]


def _load(form: str, weights: Path | str, depth: int = 18) -> tuple[FasterRCNN, list[LoadReport]]:
    """A detector of a shipped configuration, with its initial weights as training would load them."""
    config = load_config(form, [f"model.backbone.depth={depth}", f"model.backbone.weights={weights}"]).config
    model = wiring.build_model(config, 3)
    assert isinstance(model, FasterRCNN)
    return model, wiring.load_initial_weights(model, config, ("a", "b", "c"))


def _place(form: str, name: str) -> str:
    """Where a detector has a backbone's tensor; C4 has conv5_x in its head."""
    in_head = form == "coco_r50_c4.yaml" and name.startswith("layer4.")
    return ("roi_heads.box_head." if in_head else FORMS[form]) + name


def _trained() -> dict[str, Tensor]:
    """torchvision's ResNet-18 with random statistics."""
    state = torchvision.models.resnet18(num_classes=5).state_dict()
    for key, tensor in state.items():
        if key.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return state


def _write(state: dict[str, Tensor], folder: Path, source: str) -> Path:
    """The same weights as a checkpoint of our classifier, or as a file in torchvision's names."""
    path = folder / ("best.pt" if source == "detres" else f"weights{source}")
    if source == ".pth":
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)
    elif source == ".safetensors":
        save_file(state, path)
    elif source == ".npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in state.items()})
    else:
        torch.save(state, folder / "theirs.pth")
        config = load_config("demo_pretrain.yaml", [*CLASSIFIER, f"model.weights={folder / 'theirs.pth'}"]).config
        model = wiring.build_model(config, 5)
        assert isinstance(model, Classifier)
        wiring.load_initial_weights(model, config, tuple("abcde"))
        content = {"kind": "classifier", "config": config_to_dict(config), "class_names": list("abcde")}
        save_checkpoint(path, {**content, "model": model.state_dict(), "ema": None})
    return path


def test_a_file_without_anything_for_a_backbone(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth: nothing could be loaded.*encoder\.weight"):
        _load("coco_r50.yaml", tmp_path / "other.pth")


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_into_every_form(tmp_path: Path, source: str) -> None:
    state = _trained()
    path = _write(state, tmp_path, source)
    for form in FORMS:
        model, (report,) = _load(form, path)
        found = model.state_dict()
        names = [name for name in state if not name.startswith("fc.") and not name.endswith("num_batches_tracked")]
        for name in names:
            assert torch.equal(found[_place(form, name)], state[name]), (form, name)
        assert len(report.keys("loaded")) == len(names) and report.keys("missing") == []
        assert set(report.keys("skipped")) == {"fc.weight", "fc.bias"}
        assert str(path) in report.table() and "not part of this backbone" in report.table()


def test_other_pixels_than_in_pretraining_are_warned_of(tmp_path: Path) -> None:
    path = _write(_trained(), tmp_path, "detres")
    content = load_checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _load("coco_r50.yaml", path)
    content["config"]["model"]["pixels"] |= {"std": [1.0, 1.0, 1.0], "mean": [120.0, 120.0, 110.0]}
    save_checkpoint(path, content)
    with pytest.warns(UserWarning, match=r"best\.pt: .*other pixels.*set model\.pixels\.std=\[1\.0,1\.0,1\.0\]$"):
        _load("coco_r50.yaml", path)


@pytest.mark.parametrize("form", FORMS)
def test_real_partial_weights_with_folded_norms(real_data: Path, form: str) -> None:
    path = real_data / "weights" / "resnet18_imagenet_bnfolded_conv1_to_layer3.npz"
    model, (report,) = _load(form, path)
    assert {name.split("layer")[-1][0] for name in report.keys("missing")} == {"4"}
    assert report.keys("skipped") == [] and "identity norm" in report.table()
    stored, found = read_state_dict(path).state_dict, model.state_dict()
    assert torch.equal(found[_place(form, "layer3.1.conv2.weight")], stored["layer3.1.conv2.weight"])
    assert torch.equal(found[_place(form, "layer3.1.bn2.bias")], stored["layer3.1.conv2.bias"])


def test_real_partial_weights_in_torchvisions_names(real_data: Path) -> None:
    path = real_data / "weights" / "resnet50_imagenet_conv1_to_layer2.npz"
    model, (report,) = _load("coco_r50.yaml", path, depth=50)
    stored, found = read_state_dict(path).state_dict, model.state_dict()
    assert len(report.keys("loaded")) == len(stored)
    assert {name.split(".")[2] for name in report.keys("missing")} == {"layer3", "layer4"}
    for name, tensor in stored.items():
        assert torch.equal(found[_place("coco_r50.yaml", name)], tensor)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's ResNet-18 weights, as if they were published here: the file's name holds its checksum."""
    torch.save(_trained(), tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    file = (tmp_path / "weights.pth").rename(tmp_path / f"resnet18-{digest[:8]}.pth")
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(entry.value, "url", file.as_uri())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return file


NAME = "torchvision:ResNet18_Weights.IMAGENET1K_V1"


def test_torchvisions_published_weights(published: Path) -> None:
    model, (report,) = _load("coco_r50.yaml", NAME)
    stored = torch.load(published, weights_only=True)
    assert torch.equal(model.state_dict()["backbone.body.layer4.1.conv2.weight"], stored["layer4.1.conv2.weight"])
    assert report.keys("missing") == [] and NAME in report.table()
    published.unlink()  # from now on it is in torchvision's cache
    assert read_state_dict(NAME).class_names == ()


@pytest.mark.parametrize("change", ["truncated", "tampered with"])
def test_torchvisions_checksum_refuses(published: Path, tmp_path: Path, change: str) -> None:
    whole = published.read_bytes()
    published.write_bytes(whole[: len(whole) // 2] if change == "truncated" else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(WeightsError, match="could not be fetched from.*invalid hash value"):
        _load("coco_r50.yaml", NAME)
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []
    published.write_bytes(whole)
    _load("coco_r50.yaml", NAME)


def test_a_backbone_of_another_form_is_told() -> None:
    def stored(**backbone: object) -> LoadedWeights:
        return LoadedWeights({}, config={"model": {"backbone": backbone}}, source="best.pt")

    ours = {"type": "resnet", "shortcut": "B", "stride_in_1x1": False, "norm_eps": 1e-5}
    assert backbone_mismatch(stored(**ours), ours) is None
    assert backbone_mismatch(LoadedWeights({}), ours) is None, "other files do not tell"
    assert backbone_mismatch(stored(shortcut="B", stride_in_1x1=True), ours) == (
        "best.pt: its backbone was trained in another form than this model's; set model.backbone.stride_in_1x1=true"
    )
    message = backbone_mismatch(stored(shortcut="A", norm_eps=0.001), ours)
    assert message is not None and message.endswith("set model.backbone.norm_eps=0.001 model.backbone.shortcut=A")
