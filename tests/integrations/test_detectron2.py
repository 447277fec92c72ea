"""detres' backbone in detectron2, which no package registry has: against a stand-in where it is not installed."""

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detres.backbones import FPN, BackboneWithFPN, ResNet
from detres.weights import WeightsError
from tests.backbones.test_backbones_golden import golden_pixels, golden_weights
from tests.integrations.doc_example import run_examples
from tests.integrations.standins import library_or_standin

FPN_YAML = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_detres_resnet_fpn_backbone}
  RESNETS: {OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5]}
"""
R18 = "  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, "


@pytest.fixture(scope="module")
def adapter() -> Iterator[Any]:
    """The module under test, with detectron2 or its stand-in."""
    with library_or_standin("detectron2"):
        yield importlib.import_module("detres.integrations.detectron2")


def config(tmp_path: Path, yaml: str) -> Any:
    from detectron2.config import get_cfg

    (tmp_path / "model.yaml").write_text(yaml)
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "model.yaml"))
    return cfg


def build(tmp_path: Path, yaml: str) -> Any:
    from detectron2.modeling import build_backbone

    return build_backbone(config(tmp_path, yaml))


def specs(backbone: Any) -> dict[str, tuple[int, int]]:
    return {name: (spec.channels, spec.stride) for name, spec in backbone.output_shape().items()}


def test_the_page_s_example_runs(adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_examples("detectron2", tmp_path, monkeypatch)
    assert list(names["features"]) == ["p2", "p3", "p4", "p5", "p6"]
    assert list(names["lazy_features"]) == ["res2", "res3", "res4", "res5"]


def test_a_yaml_of_theirs_builds_with_another_name(adapter: Any, tmp_path: Path) -> None:
    from detectron2.modeling import Backbone

    with torch.device("meta"):
        backbone = build(tmp_path, FPN_YAML)
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert isinstance(backbone, Backbone)
    assert specs(backbone) == {f"p{i}": (256, 2**i) for i in range(2, 7)}
    assert {name: x.shape[2:] for name, x in features.items()} == {
        "p2": (16, 24), "p3": (8, 12), "p4": (4, 6), "p5": (2, 3), "p6": (1, 2),
    }  # fmt: skip
    assert backbone.size_divisibility == 32 and backbone.padding_constraints == {"size_divisibility": 32}
    block = backbone.body.layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))  # detectron2's default: STRIDE_IN_1X1
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}  # FREEZE_AT 2; the norms are buffers


def test_c4_dc5_and_retinanet_configurations_build(adapter: Any, tmp_path: Path) -> None:
    with torch.device("meta"):
        c4 = build(tmp_path, "MODEL: {BACKBONE: {NAME: build_detres_resnet_backbone}}")
        dc5 = build(
            tmp_path,
            "MODEL: {BACKBONE: {NAME: build_detres_resnet_backbone}, "
            "RESNETS: {OUT_FEATURES: [res5], RES5_DILATION: 2}}",
        )
        retinanet = build(
            tmp_path,
            "MODEL: {BACKBONE: {NAME: build_detres_retinanet_resnet_fpn_backbone}, "
            "RESNETS: {OUT_FEATURES: [res3, res4, res5]}, FPN: {IN_FEATURES: [res3, res4, res5]}}",
        )
        x101 = build(tmp_path, FPN_YAML.replace("S: {OUT", "S: {DEPTH: 101, NUM_GROUPS: 32, WIDTH_PER_GROUP: 8, OUT"))
    assert specs(c4) == {"res4": (1024, 16)} and c4.size_divisibility == 0
    assert specs(dc5) == {"res5": (2048, 16)}
    assert specs(retinanet) == {f"p{i}": (256, 2**i) for i in range(3, 8)} and retinanet.size_divisibility == 32
    assert (len(x101.body.layer3), x101.body.layer1[0].conv2.groups, x101.body.layer1[0].conv2.out_channels) == (
        23, 32, 256,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("norm", "layer"), [("BN", "BatchNorm2d"), ("SyncBN", "SyncBatchNorm"), ("GN", "GroupNorm"),
                        ("FrozenBN", "FrozenBatchNorm2d")],
)  # fmt: skip
def test_norms_and_freezing_follow_the_keys(adapter: Any, tmp_path: Path, norm: str, layer: str) -> None:
    backbone = build(tmp_path, f"MODEL:\n  BACKBONE: {{NAME: build_detres_resnet_backbone, FREEZE_AT: 1}}\n{R18}"
                     f"OUT_FEATURES: [res3], NORM: {norm}}}")  # fmt: skip
    backbone.train()
    assert type(backbone.body.layer2[0].bn1).__name__ == layer
    assert backbone.body.layer2[0].bn1.training and not backbone.body.bn1.training
    assert not backbone.body.conv1.weight.requires_grad and backbone.body.layer1[0].conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("RESNETS: {DEFORM_ON_PER_STAGE: [false, true, true, true]}", "DEFORM_ON_PER_STAGE"),
        ("RESNETS: {STEM_OUT_CHANNELS: 32}", "STEM_OUT_CHANNELS"),
        ("RESNETS: {RES2_OUT_CHANNELS: 128}", "RES2_OUT_CHANNELS"),
        ("RESNETS: {OUT_FEATURES: [stem]}", "'stem'.*res2"),
        ("RESNETS: {RES5_DILATION: 4}", "res5_dilation"),
        ("RESNETS: {NORM: LN}", "'LN'.*FrozenBN"),
        ("PIXEL_MEAN: [1.0]", "input channels"),
    ],
)
def test_what_this_resnet_has_not_is_refused_by_name(adapter: Any, tmp_path: Path, setting: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build(tmp_path, f"MODEL: {{BACKBONE: {{NAME: build_detres_resnet_backbone}}, {setting}}}")


def test_averaging_pyramids_are_refused(adapter: Any, tmp_path: Path) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="FUSE_TYPE"):
        build(tmp_path, FPN_YAML.replace("FPN: {", "FPN: {FUSE_TYPE: avg, "))


def test_a_yaml_names_weights_pyramid_included(adapter: Any, tmp_path: Path) -> None:
    from detectron2.modeling import build_backbone

    body = ResNet(18, norm="frozen_batch")
    trained = BackboneWithFPN(body, FPN(body.feature_specs))
    torch.save({f"backbone.{name}": x for name, x in trained.state_dict().items()}, tmp_path / "detector.pt")
    yaml = FPN_YAML.replace("  RESNETS: {", R18)
    cfg = config(tmp_path, yaml)
    adapter.add_detres_config(cfg)
    assert cfg.MODEL.DETRES.WEIGHTS == ""
    (tmp_path / "weights.yaml").write_text(f"MODEL: {{DETRES: {{WEIGHTS: {tmp_path / 'detector.pt'}}}}}")
    cfg.merge_from_file(str(tmp_path / "weights.yaml"))
    backbone = build_backbone(cfg)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name
    with pytest.raises(WeightsError, match="detector.pt.*pyramid"):
        adapter.detres_resnet_fpn(18, out_channels=64, weights=str(tmp_path / "detector.pt"))


def test_lazy_configurations_call_plain_functions(adapter: Any, tmp_path: Path) -> None:
    from detectron2.config import LazyCall, instantiate

    body = ResNet(18)
    torch.save(body.state_dict(), tmp_path / "classifier.pth")
    lazy = LazyCall(adapter.detres_resnet)(
        depth=18, norm="BN", freeze_at=2, out_features=["res3", "res5"], weights=str(tmp_path / "classifier.pth")
    )
    backbone = instantiate(lazy)
    assert specs(backbone) == {"res3": (128, 8), "res5": (512, 32)}
    assert torch.equal(backbone.body.layer4[1].conv2.weight, body.layer4[1].conv2.weight)
    pyramid = instantiate(LazyCall(adapter.detres_resnet_fpn)(depth=18, in_features=["res3", "res4"], top="none"))
    assert specs(pyramid) == {"p3": (256, 8), "p4": (256, 16)}


def test_registering_again_changes_nothing_and_a_backbone_pickles(adapter: Any) -> None:
    assert adapter.register() is adapter.DetresBackbone
    backbone = adapter.detres_resnet(18, out_features=["res2"]).eval()
    again, x = pickle.loads(pickle.dumps(backbone)), torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x)["res2"], backbone(x)["res2"])


def test_without_detectron2_the_import_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.setitem(sys.modules, "detectron2.modeling", None)
    monkeypatch.delitem(sys.modules, "detres.integrations.detectron2", raising=False)
    with pytest.raises(ImportError, match="github.com/facebookresearch/detectron2"):
        importlib.import_module("detres.integrations.detectron2")


def test_maps_are_those_recorded_from_detectron2_by_a_file_of_theirs(
    adapter: Any, golden: Path, tmp_path: Path
) -> None:
    from detectron2.modeling import build_backbone

    torch.save({"model": golden_weights(golden, "R50-FPN")}, tmp_path / "model_final.pth")
    cfg = config(tmp_path, FPN_YAML)
    adapter.add_detres_config(cfg)
    cfg.MODEL.DETRES.WEIGHTS = str(tmp_path / "model_final.pth")
    backbone = build_backbone(cfg).eval()
    with torch.no_grad():
        features = backbone(golden_pixels(golden, backbone.size_divisibility))
    with np.load(golden / "golden_R50-FPN.npz") as expected:
        for name, x in features.items():
            samples = x.flatten().double().numpy()[expected[f"a/feat/{name}/index"]]
            worst = np.abs(samples - expected[f"a/feat/{name}/value"]).max() / expected[f"a/feat/{name}/std"]
            assert worst < 1e-4, f"{name}: off by {worst:.1e} standard deviations of the map"
