"""The tables of published checkpoints: each entry whole, each configuration real and what its file implies."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from detres.config import config_to_dict, load_config
from detres.weights import WeightsError
from detres.weights.formats import FORMATS
from detres.weights.zoo import Entry, entries, find
from detres.weights.zoo.entry import resnet_settings
from detres.wiring import build_model

ALL = entries()


def test_nothing_is_found_for_nonsense() -> None:
    assert entries("no such words") == []
    with pytest.raises(WeightsError, match=r"zoo:: the zoo has no checkpoint of that name; .*`detres zoo` lists all"):
        find("")


def test_every_publisher_is_there_whole() -> None:
    counts = {name: len(entries(f"{name}/")) for name in ("detectron2", "msra", "mmdetection", "torchvision", "timm")}
    assert counts == {
        "detectron2": 12,
        "msra": 5,
        "mmdetection": 42,
        "torchvision": len(entries("torchvision/")),
        "timm": 77,
    }
    assert counts["torchvision"] >= 19, "torchvision may publish more of them"
    assert sum(counts.values()) == len(ALL)


def test_names_and_addresses_are_unique() -> None:
    assert len({entry.name for entry in ALL}) == len(ALL)
    assert len({entry.url for entry in ALL}) == len(ALL)


# As their publishers print them: address, digits, result.
PINNED = {
    "detectron2/faster_rcnn_R_50_C4_3x": ("COCO-Detection/faster_rcnn_R_50_C4_3x/137849393/", "f97cb7", 38.4),
    "detectron2/faster_rcnn_R_50_FPN_3x": ("COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/", "280758", 40.2),
    "detectron2/faster_rcnn_R_101_DC5_3x": ("COCO-Detection/faster_rcnn_R_101_DC5_3x/138204841/", "3e0943", 40.6),
    "detectron2/faster_rcnn_X_101_32x8d_FPN_3x": ("faster_rcnn_X_101_32x8d_FPN_3x/139173657/", "68b088", 43.0),
    "mmdetection/faster-rcnn_r50-caffe-dc5_1x_coco": ("faster_rcnn_r50_caffe_dc5_1x_coco/", "531f0f43", 37.2),
    "mmdetection/faster-rcnn_r101-caffe_fpn_ms-3x_coco": ("faster_rcnn_r101_caffe_fpn_mstrain_3x", "a7ae426d", 42.0),
    "mmdetection/faster-rcnn_x101-64x4d_fpn_ms-3x_coco": ("faster_rcnn_x101_64x4d_fpn_mstrain_3x", "26c63de6", 43.1),
    "torchvision/FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1": ("fasterrcnn_resnet50_fpn_v2_coco-", "dd69338a", 46.7),
    "timm/resnet50d.ra2_in1k": ("resnet50d_ra2-", "464e36ba", 81.356),
}  # fmt: skip


@pytest.mark.parametrize("name", PINNED)
def test_published_facts(name: str) -> None:
    path, digits, percent = PINNED[name]
    entry = find(name)
    assert path in entry.url and digits in entry.url and (entry.checksum or "").endswith(f":{digits}")
    assert entry.metric is not None and entry.metric.percent == percent


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_every_entry_is_whole(entry: Entry) -> None:
    assert re.fullmatch(r"[a-z0-9]+/[\w.+-]+", entry.name)
    assert re.fullmatch(r"https://[\w./+-]+\.(pkl|pth|safetensors)", entry.url)
    assert entry.format in FORMATS
    if entry.checksum is not None:
        algorithm, _, digits = entry.checksum.partition(":")
        assert algorithm == ("md5" if entry.publisher == "detectron2" else "sha256")
        assert len(digits) >= 6 and digits in entry.file_name
    if entry.metric is not None:
        assert 15 < entry.metric.percent < 90
    config = load_config(entry.config, entry.overrides).config
    assert (config.model.type == "classifier") == (entry.kind == "classifier")
    for start in (config.model.weights, getattr(config.model.backbone, "weights", None)):
        if start is not None and start.startswith("zoo:"):
            assert find(start.removeprefix("zoo:")) is not entry


def test_every_publisher_but_the_hub_and_msra_gives_checksums() -> None:
    without = {entry.name for entry in ALL if entry.checksum is None}
    assert without == {e.name for e in ALL if e.publisher == "msra" or e.file_name == "model.safetensors"}


def test_published_figures() -> None:
    shown = {
        "detectron2/faster_rcnn_R_50_FPN_3x": ("box AP 40.2", "md5:280758"),
        "detectron2/faster_rcnn_R_50_C4": ("AP50 (11-point) 80.3", "md5:b1acc2"),
        "mmdetection/faster-rcnn_r50_fpn_1x_coco": ("box AP 37.4", "sha256:047c8118"),
        "torchvision/FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1": ("box AP 46.7", "sha256:dd69338a"),
        "torchvision/ResNet50_Weights.IMAGENET1K_V1": ("top-1 76.13", "sha256:0676ba61"),
        "timm/resnet50.a1_in1k": ("top-1 81.214", "sha256:14fe96d1"),
        "msra/R-50": ("top-1 75.3", None),
    }
    assert {name: (str(find(name).metric), find(name).checksum) for name in shown} == shown


def test_addresses_follow_the_publishers_rules() -> None:
    assert find("detectron2/faster_rcnn_R_50_FPN_noaug_1x").url == (
        "https://dl.fbaipublicfiles.com/detectron2/Detectron1-Comparisons/faster_rcnn_R_50_FPN_noaug_1x/137781054/"
        "model_final_7ab50c.pkl"
    )
    prefix = "https://download.openmmlab.com/mmdetection/v2.0/"
    assert {
        name: find(f"mmdetection/faster-rcnn_{name}").url.removeprefix(prefix)
        for name in ("r50-caffe_fpn_ms-2x_coco", "r50_fpn_rsb-pretrain_1x_coco", "r50_fpn_fp16_1x_coco")
    } == {
        "r50-caffe_fpn_ms-2x_coco": "faster_rcnn/faster_rcnn_r50_caffe_fpn_mstrain_2x_coco/"
        "faster_rcnn_r50_caffe_fpn_mstrain_2x_coco_bbox_mAP-0.397_20200504_231813-10b2de58.pth",
        "r50_fpn_rsb-pretrain_1x_coco": "resnet_strikes_back/faster_rcnn_r50_fpn_rsb-pretrain_1x_coco/"
        "faster_rcnn_r50_fpn_rsb-pretrain_1x_coco_20220113_162229-32ae82a9.pth",
        "r50_fpn_fp16_1x_coco": "fp16/faster_rcnn_r50_fpn_fp16_1x_coco/"
        "faster_rcnn_r50_fpn_fp16_1x_coco_20200204-d4dc1471.pth",
    }


def test_words_filter_in_any_case() -> None:
    names = [entry.name for entry in entries("DETECTRON2 c4")]
    assert names and all("C4" in name for name in names)
    assert {entry.dataset for entry in entries("voc")} == {"PASCAL VOC 07+12"}


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("detectron2/faster_rcnn_R50_FPN_3x", "did you mean detectron2/faster_rcnn_R_50_FPN_3x"),
        ("resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("X-101", "msra/X-101-32x8d"),
    ],
)
def test_unknown_names_suggest_near_ones(name: str, suggestion: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(suggestion)):
        find(name)


def test_architectures_by_name() -> None:
    assert resnet_settings("resnext50d_32x4d") == tuple(
        f"model.backbone.{text}"
        for text in ("depth=50", "groups=32", "width_per_group=4", "deep_stem=true", "avg_pool_shortcut=true")
    )
    assert resnet_settings("wide_resnet101_2") == ("model.backbone.depth=101", "model.backbone.width_per_group=128")
    with pytest.raises(ValueError, match="'resnetaa50d': expected resnet"):
        resnet_settings("resnetaa50d")


# What a bare state dict does not tell of its norms.
UNTOLD = {"backbone.norm", "backbone.norm_eps", "backbone.frozen_stages", "backbone.weights"}
FAMILIES = (
    "detectron2/faster_rcnn_R_50_C4",
    "detectron2/faster_rcnn_R_50_DC5_1x",
    "detectron2/faster_rcnn_X_101_32x8d_FPN_3x",
    "msra/X-101-32x8d",
    "msra/R-50-GN",
    "mmdetection/faster-rcnn_r50-caffe-dc5_1x_coco",
    "mmdetection/faster-rcnn_r50_fpn_giou_1x_coco",
    "mmdetection/faster-rcnn_r50_fpn_gn-all_scratch_6x_coco",
    "torchvision/FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1",
    "torchvision/Wide_ResNet50_2_Weights.IMAGENET1K_V1",
    "timm/resnext50d_32x4d.bt_in1k",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_configuration_is_what_the_file_implies(name: str) -> None:
    entry = find(name)
    config = load_config(entry.config, [*entry.overrides, "model.backbone.weights=null"]).config
    with torch.device("meta"):
        model = build_model(config, 20 if entry.dataset.startswith("PASCAL") else 80)
    published = FORMATS[entry.format].from_detres(model.state_dict())
    implied = _flat(FORMATS[entry.format].implied(published, {}).model)
    configured = _flat(config_to_dict(config)["model"])
    differing = {key: (value, configured.get(key)) for key, value in implied.items() if value != configured.get(key)}
    assert not set(differing) - UNTOLD, differing


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
