"""Settings read back from the keys and shapes of the models that they built."""

from typing import Any

import pytest
import torch

from detres import wiring
from detres.config import load_config
from detres.weights.formats.shapes import describe_backbone, describe_model, merge, num_classes
from detres.weights.report import WeightsError

CONFIGS = [
    ("coco_r50.yaml", ""),
    ("coco_r18.yaml", ""),
    ("coco_r101.yaml", ""),
    ("coco_x101.yaml", ""),
    ("coco_r50_c4.yaml", ""),
    ("coco_r50_c4.yaml", "backbone.depth=34"),
    ("coco_r50_dc5.yaml", "backbone.depth=152"),
    ("coco_r50_torchvision_v2.yaml", ""),
    ("coco_r50.yaml", "backbone.norm=group neck.norm=group rpn.convs=2 rpn.channels=64"),
    ("coco_r50.yaml", "backbone.deep_stem=true backbone.avg_pool_shortcut=true"),
    ("coco_r18.yaml", "backbone.avg_pool_shortcut=true neck.channels=128 roi_heads.pool.output_size=5"),
    ("coco_r18.yaml", 'roi_heads.class_agnostic=true roi_heads.box_head={"type":"fc","num_fcs":3,"channels":96}'),
    ("coco_r18.yaml", "backbone.out_features=[c3,c4,c5] neck.top=conv anchors.sizes=[[64],[128],[256],[512],[1024]]"),
    ("coco_r18.yaml", "backbone.out_features=[c2,c3] anchors.sizes=[[32],[64],[128]]"),
    ("coco_r18.yaml", "anchors.aspect_ratios=[1.0]"),
    ("coco_r18.yaml", "backbone.shortcut=C"),
    ("coco_r18.yaml", "backbone.shortcut=A"),
]


def _state(name: str, overrides: str = "", classes: int = 80) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    settings = [f"model.{override}" for override in overrides.split(" ") if override]
    config = load_config(name, [*settings, "model.backbone.weights=null"]).config
    with torch.device("meta"):
        return wiring.build_model(config, classes).state_dict(), config.model.model_dump()


@pytest.mark.parametrize(("name", "overrides"), CONFIGS)
def test_a_model_is_described_as_it_was_configured(name: str, overrides: str) -> None:
    state, model = _state(name, overrides)
    described = describe_model(state)
    assert num_classes(state) == 80
    for part, settings in described.items():
        found = model[part] if not isinstance(settings, dict) else merge(model[part], settings)
        assert found == model[part], part


@pytest.mark.parametrize("name", ["imagenet_r50.yaml", "paper/imagenet_resnet18.yaml"])
def test_classifiers(name: str) -> None:
    state, model = _state(name, classes=7)
    described = describe_model(state)
    assert described["type"] == "classifier" and num_classes(state) == 7
    assert merge(model["backbone"], described["backbone"]) == model["backbone"]


def test_other_networks_are_refused_with_what_they_have() -> None:
    with pytest.raises(WeightsError, match=r"no ResNet: it has no blocks layer1\.0.*tensors are features\.0\.weight"):
        describe_model({"backbone.features.0.weight": torch.zeros(1)})
    state, _ = _state("coco_r50.yaml")
    shorter = {key: tensor for key, tensor in state.items() if ".layer3.5." not in key}
    with pytest.raises(WeightsError, match="stages of 3, 4, 5 bottleneck blocks"):
        describe_backbone(shorter)


def test_nine_anchors_on_every_level_divide_an_octave() -> None:
    state, _ = _state(
        "coco_r18.yaml", "anchors.sizes=[[32,40,51],[64,80,102],[128,160,204],[256,320,408],[512,640,816]]"
    )
    sizes = describe_model(state)["anchors"]["sizes"]
    assert sizes[1] == pytest.approx([64.0, 64 * 2 ** (1 / 3), 64 * 2 ** (2 / 3)])


def test_merge_goes_into_nested_settings_and_replaces_the_rest() -> None:
    assert merge({"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"c": [2, 3]}, "d": {"e": 1}}) == {
        "a": {"b": 1, "c": [2, 3]},
        "d": {"e": 1},
    }
