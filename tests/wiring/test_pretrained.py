"""`model.backbone.weights: pretrained`, and the adapters that a checkpoint may name without being trusted."""

from pathlib import Path

import pytest
import torch
import torchvision

import detres
from detres import wiring
from detres.api import Detector
from detres.config import Config, config_to_dict, load_config
from detres.engine.checkpoint import save_checkpoint

ADAPTER = '{type: "detres.integrations.torchvision:TorchvisionBackbone", args: {model: resnet18}, weights: pretrained}'


def _config(*overrides: str) -> Config:
    return load_config("coco_r18.yaml", [f"model.backbone={ADAPTER}", *overrides]).config


def test_a_backbone_starts_from_what_its_library_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.resnet18(weights=None)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights, **_: published)
    config = _config()
    model = wiring.build_model(config, 2)
    (report,) = wiring.load_initial_weights(model, config, ("a", "b"))
    assert report.source == "torchvision resnet18 DEFAULT" and len(report.keys("loaded")) == 120
    assert torch.equal(model.backbone.body.state_dict()["layer4.1.conv2.weight"], published.layer4[1].conv2.weight)
    config = _config("model.pixels.std=[1, 1, 1]")
    with pytest.warns(UserWarning, match=r"torchvision resnet18 DEFAULT: its network was trained on other pixels"):
        wiring.load_initial_weights(wiring.build_model(config, 2), config, ("a", "b"))


def test_our_own_backbones_have_no_publisher() -> None:
    config = load_config("coco_r18.yaml", ["model.backbone.weights=pretrained"]).config
    with pytest.raises(ValueError, match=r"got pretrained, expected a file or a name.*ResNet has no load_pretrained"):
        wiring.load_initial_weights(wiring.build_model(config, 2), config, ("a", "b"))


def test_a_checkpoint_with_an_adapter_is_ours_and_fetches_nothing(tmp_path: Path) -> None:
    config = _config()
    model = wiring.build_model(config, 1)
    state = {"config": config_to_dict(config), "class_names": ["a"], "model": model.state_dict(), "ema": None}
    save_checkpoint(tmp_path / "last.pt", {"kind": "detector", **state})
    detector = detres.load(tmp_path / "last.pt", "cpu")
    assert isinstance(detector, Detector)
    assert torch.equal(detector.network.state_dict()["rpn.head.cls_logits.weight"], model.rpn.head.cls_logits.weight)


def test_other_things_in_the_adapters_modules_are_not_trusted(tmp_path: Path) -> None:
    settings = config_to_dict(_config())
    settings["model"]["backbone"]["type"] = "detres.integrations.torchvision:OrderedDict"
    save_checkpoint(
        tmp_path / "last.pt",
        {"kind": "detector", "config": settings, "class_names": ["a"], "model": {}, "ema": None},
    )
    with pytest.raises(ValueError, match="OrderedDict, which would be imported"):
        detres.load(tmp_path / "last.pt", "cpu")
