"""timm's backbones in our detector."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detres import wiring
from detres.backbones import BackboneWithFPN, FeatureSpec
from detres.config import load_config
from detres.detector import FasterRCNN
from detres.integrations.timm import TimmBackbone
from detres.structures import GroundTruth, ImageBatch
from tests.integrations.doc_example import run_examples

timm = pytest.importorskip("timm", reason="needs timm: pip install timm")

FAMILIES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, int]]]] = {
    "resnet18d": ({}, {"c2": (64, 4), "c3": (128, 8), "c4": (256, 16), "c5": (512, 32)}),
    "convnext_atto": ({}, {"c2": (40, 4), "c3": (80, 8), "c4": (160, 16), "c5": (320, 32)}),
    "mobilenetv3_small_050": ({}, {"c2": (8, 4), "c3": (16, 8), "c4": (24, 16), "c5": (288, 32)}),
    "hrnet_w18_small": ({}, {"c2": (128, 4), "c3": (256, 8), "c4": (512, 16), "c5": (1024, 32)}),
    "swin_tiny_patch4_window7_224": (
        {"strict_img_size": False, "depths": (1, 1, 1, 1)},
        {"c2": (96, 4), "c3": (192, 8), "c4": (384, 16), "c5": (768, 32)},
    ),
    "vit_tiny_patch16_224": ({"dynamic_img_size": True, "depth": 3, "out_features": ["c4"]}, {"c4": (192, 16)}),
    "resnet18": ({"out_features": ["c3", "c4"]}, {"c3": (128, 8), "c4": (256, 16)}),
}


@pytest.mark.parametrize("model", FAMILIES)
def test_maps_have_the_promised_shapes(model: str) -> None:
    options, specs = FAMILIES[model]
    backbone = TimmBackbone(model, **options).eval()
    assert backbone.feature_specs == {name: FeatureSpec(*spec) for name, spec in specs.items()}
    with torch.no_grad():
        maps = backbone(torch.rand(2, 3, 96, 64))
    assert list(maps) == list(specs)
    for name, (channels, stride) in specs.items():
        assert maps[name].shape == (2, channels, 96 // stride, 64 // stride)


def test_maps_are_those_of_timm() -> None:
    options = {"strict_img_size": False, "depths": (1, 1, 1, 1)}
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", **options).eval()
    theirs = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, **options).eval()
    theirs.load_state_dict(backbone.net.state_dict())
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, other in zip(backbone(pixels).values(), theirs(pixels), strict=True):
            torch.testing.assert_close(mine, other.permute(0, 3, 1, 2))  # theirs: channels last


def test_layers_after_the_last_map_are_not_made() -> None:
    backbone = TimmBackbone("resnet18", out_features=["c4"])
    assert {name.split(".")[1] for name in backbone.state_dict()} == {"conv1", "bn1", "layer1", "layer2", "layer3"}


def test_frozen_stages_and_batch_norms() -> None:
    backbone = TimmBackbone("resnet18", frozen_stages=1).train()
    assert {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad} == {"conv1", "bn1"}
    backbone = TimmBackbone("mobilenetv3_small_050", frozen_stages=3, frozen_batch=True).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training or m.weight.requires_grad for m in norms)
    kept = ("net.conv_stem", "net.blocks.0", "net.blocks.1")  # what leads to c3
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (not name.startswith(kept) and "bn" not in name), name
    swin = TimmBackbone("swin_tiny_patch4_window7_224", strict_img_size=False, depths=(1, 1, 1, 1), frozen_stages=2)
    frozen = {name.split(".")[1] for name, p in swin.named_parameters() if not p.requires_grad}
    assert frozen == {"patch_embed", "layers_0"} and not swin.train().net.layers_0.training


def test_load_pretrained_reads_timms_weights_and_the_constructor_does_not(tmp_path: Path) -> None:
    published = timm.create_model("resnet18")
    for tensor in published.state_dict().values():
        tensor.fill_(0.5)
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    overlay = {"file": str(tmp_path / "resnet18.pth")}  # in place of a download
    backbone = TimmBackbone("resnet18.a1_in1k", out_features=["c3"], pretrained_cfg_overlay=overlay)
    assert not any(bool((p == 0.5).all()) for p in backbone.parameters())
    assert backbone.load_pretrained() == "timm resnet18.a1_in1k"
    assert all(bool((p == 0.5).all()) for p in backbone.parameters())
    assert backbone.pretrained_pixels()["std"] == pytest.approx([58.395, 57.12, 57.375])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet19d"}, "timm has no 'resnet19d'; nearest: resnet"),
        ({"model": "hf-hub:somebody/something"}, "timm has no"),
        ({"model": "resnet18", "pretrained": True}, "pretrained: not an option.*load_pretrained"),
        ({"model": "resnet18", "checkpoint_path": "x.pth"}, "checkpoint_path: not an option"),
        ({"model": "resnet18", "out_features": ["c7"]}, "out_features: got .*expected at least one of c1, c2"),
        ({"model": "vit_tiny_patch16_224"}, "out_features: got .*expected at least one of c4"),
        ({"model": "convnext_atto", "frozen_stages": 1}, "frozen_stages: got 1, expected 0 .nothing. or 2"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**options)


def test_on_the_meta_device_it_has_shapes_without_numbers() -> None:
    with torch.device("meta"):
        backbone = TimmBackbone("resnet18d", frozen_stages=2)
        maps = backbone(torch.zeros(1, 3, 64, 64))
    assert {name: x.shape[1] for name, x in maps.items()} == {"c2": 64, "c3": 128, "c4": 256, "c5": 512}


def test_from_yaml_it_trains_and_predicts(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        """
base: coco_r18.yaml
model:
  backbone:
    type: "detres.integrations.timm:TimmBackbone"
    args: {model: convnext_atto, out_features: [c2, c3, c4, c5], drop_path_rate: 0.1}
  neck: {channels: 32}
"""
    )
    network = wiring.build_model(load_config(str(path)).config, num_classes=3)
    assert isinstance(network, FasterRCNN) and isinstance(network.backbone, BackboneWithFPN)
    batch = ImageBatch.from_images([torch.rand(3, 64, 96) * 255])
    truth = GroundTruth.from_lists([torch.tensor([[8.0, 8.0, 50.0, 60.0]])], [torch.tensor([1])])
    losses = network(batch, truth)
    sum(losses.values()).backward()
    first = next(network.backbone.body.parameters())
    assert all(torch.isfinite(loss) for loss in losses.values()) and first.grad is not None
    assert len(network.eval().predict(batch)) == 1


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_examples("timm", tmp_path, monkeypatch)
    assert len(names["detections"]) == 1 and all(torch.isfinite(loss) for loss in names["losses"].values())
