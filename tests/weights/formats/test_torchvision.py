"""torchvision's names and conventions, on its own models."""

import json
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2

from detres import wiring
from detres.config import load_config
from detres.weights.formats import recognise
from detres.weights.formats import torchvision as format
from detres.weights.formats.conventions import with_background, with_turned_channels
from detres.weights.formats.shapes import merge
from detres.weights.report import WeightsError

CLASSIFIERS = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
DETECTORS = {
    "coco_r50_torchvision.yaml": fasterrcnn_resnet50_fpn,
    "coco_r50_torchvision_v2.yaml": fasterrcnn_resnet50_fpn_v2,
}


def _same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted) and all(found[key] is tensor for key, tensor in wanted.items())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_there_and_back(name: str) -> None:
    """Every tensor comes back as itself, and the network that the shapes imply has them all."""
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None, num_classes=7).state_dict()
        assert format.recognises(state) and recognise(state) is None, "its names are ours: they prove nothing"
        ours = format.to_detres(state)
        _same(format.from_detres(ours), state)
        model = format.implied(state, {}).model
        settings = [f"model.backbone.{key}={json.dumps(value)}" for key, value in model["backbone"].items()]
        config = load_config("imagenet_r50.yaml", settings).config
        built = wiring.build_model(config, 7).state_dict()
    assert {key: tensor.shape for key, tensor in built.items()} == {key: tensor.shape for key, tensor in ours.items()}


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_imply_the_shipped_configurations(name: str) -> None:
    with torch.device("meta"):
        state = DETECTORS[name](weights=None, weights_backbone=None, num_classes=91).state_dict()
    _same(format.from_detres(format.to_detres(state)), state)
    implied = format.implied(state, {})
    assert len(implied.class_names) == 90 and implied.class_names[:2] == ("person", "bicycle")
    shipped = load_config(name).config.model.model_dump()
    without = {key for key in state if not key.endswith("num_batches_tracked")}
    published = format.implied({key: state[key] for key in without}, {})  # as the first COCO weights are
    wanted: dict[str, Any] = shipped if name.endswith("v2.yaml") else merge(shipped, {"backbone": {"norm": "batch"}})
    wanted = wanted if name.endswith("v2.yaml") else merge(wanted, {"backbone": {"norm_eps": 1e-5}})
    assert merge(wanted, implied.model) == wanted | {"pixels": wanted["pixels"]}
    assert published.model["backbone"]["norm_eps"] == 0.0 and "norm_eps" in published.assumed[-1]


def test_other_numbers_of_classes_have_no_names_and_an_eps() -> None:
    with torch.device("meta"):
        state = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).state_dict()
    state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    implied = format.implied(state, {})
    assert implied.class_names == () and implied.model["backbone"]["norm_eps"] == 1e-5
    assert implied.model["roi_heads"]["background"] == "first"


def test_keys_of_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the state dict of a detres classifier.*found rpn\.head"):
        format.from_detres({"rpn.head.cls_logits.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="no ResNet: it has no blocks"):
        format.implied({"conv1.weight": torch.zeros(1)}, {})


def test_instructions_tell_the_pixels_and_what_cannot_be_said() -> None:
    model = load_config("coco_r50.yaml").config.model.model_dump()
    state = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(4, 2)}
    lines = format.instructions(model, state)
    assert "FasterRCNN(..., num_classes=4, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]," in lines
    assert "    box_score_thresh=0.05, box_nms_thresh=0.5," in lines
    found = [line.split(" is ")[0].removeprefix("not the same: model.") for line in lines if "not the same" in line]
    assert found == [
        "anchors.rounded",
        "anchors.stride",
        "anchors.order",
        "roi_heads.pool.aligned",
        "roi_heads.min_size",
        "rpn.min_size",
    ]
    assert "to_torchvision builds" in lines[-1]
    alike = load_config("coco_r50_torchvision.yaml").config.model.model_dump()
    assert not any("not the same" in line for line in format.instructions(alike, state))
    paper = load_config("paper/imagenet_resnet50.yaml", ["model.backbone.stride_in_1x1=true"]).config.model.model_dump()
    (difference, *_) = format.instructions(paper, {})
    assert difference == "not the same: model.backbone.stride_in_1x1 is True here, False in torchvision"


def test_the_background_moves_and_comes_back() -> None:
    state = {
        "roi_heads.box_predictor.cls_score.weight": torch.arange(4.0)[:, None],
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(12.0),
        "rpn.head.cls_logits.weight": torch.zeros(3),
    }
    first = with_background(state, "first")
    assert first["roi_heads.box_predictor.cls_score.weight"].flatten().tolist() == [3, 0, 1, 2]
    assert first["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 0, 0, 0, *range(12)]
    back = with_background(first, "last")
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
    agnostic = {**state, "roi_heads.box_predictor.bbox_pred.bias": torch.arange(4.0)}
    moved = with_background(agnostic, "first", "last")
    assert moved["roi_heads.box_predictor.cls_score.weight"].flatten().tolist() == [3, 0, 1, 2]
    back = with_background(moved, "last", "first")
    assert all(torch.equal(back[key], tensor) for key, tensor in agnostic.items())
    assert with_background(state, "last") == state and with_background({}, "first") == {}


def test_turned_channels_see_turned_pixels_alike() -> None:
    conv = torch.nn.Conv2d(3, 4, 3)
    turned = with_turned_channels({"backbone.body.conv1.weight": conv.weight, "fc.weight": conv.weight})
    pixels = torch.rand(1, 3, 8, 8)
    got = torch.nn.functional.conv2d(pixels.flip(1), turned["backbone.body.conv1.weight"], conv.bias)
    torch.testing.assert_close(got, conv(pixels))
    assert turned["fc.weight"] is conv.weight
