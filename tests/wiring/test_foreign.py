"""Whole configurations from what files imply, what the zoo knows better, and what is left to assume."""

from dataclasses import replace

import pytest
import torch

from detres import wiring
from detres.config import load_config
from detres.weights import WeightsError
from detres.weights.formats import FORMATS, detectron2, mmdetection
from detres.weights.sources import LoadedWeights, read_state_dict
from detres.weights.zoo import find


def _found(name: str, *overrides: str, format: str = "detectron2", classes: int = 80) -> LoadedWeights:
    with torch.device("meta"):
        model = wiring.build_model(load_config(name, [*overrides, "model.backbone.weights=null"]).config, classes)
        state = FORMATS[format].from_detres(model.state_dict())
        implied = FORMATS[format].implied(state, {})
    kind = "detector" if hasattr(model, "roi_heads") else "classifier"
    return LoadedWeights(FORMATS[format].to_detres(state), implied.class_names, kind, source="a.pkl", implied=implied)


def test_data_follow_the_classes_and_the_model_the_file() -> None:
    config = wiring.implied_config(_found("coco_r18.yaml", classes=20))
    assert config.data.val.type == "voc" and config.model.backbone.depth == 18
    assert wiring.implied_config(_found("coco_r18.yaml")).data.val.type == "coco"
    other = wiring.implied_config(_found("coco_r18.yaml"), "bccd.yaml", ["model.pixels.channel_order=rgb"])
    assert other.data.val.type == "voc" and other.model.pixels.channel_order == "rgb"


def test_the_zoo_knows_what_no_tensor_tells() -> None:
    """This one was trained with RoIAlign as Detectron had it, and mmdetection's caffe style leaves no trace either."""
    entry = find("detectron2/faster_rcnn_R_50_FPN_noaug_1x")
    found = _found("coco_r50.yaml")
    assert wiring.implied_config(found).model.roi_heads.pool.aligned
    pool = wiring.implied_config(replace(found, recipe=(entry.config, entry.overrides))).model.roi_heads.pool
    assert (pool.aligned, pool.sampling_ratio) == (False, 2)
    entry = find("mmdetection/faster-rcnn_r50-caffe_fpn_1x_coco")
    found = replace(_found("coco_r50.yaml", format="mmdetection"), recipe=(entry.config, entry.overrides))
    model = wiring.implied_config(found).model
    assert (model.backbone.stride_in_1x1, model.pixels.channel_order, model.pixels.std) == (True, "bgr", [1, 1, 1])
    assert model.weights is None and model.backbone.weights is None
    assert wiring.assumptions(found, wiring.implied_config(found)) == ()


def test_detectron2_dilates_no_basic_blocks() -> None:
    single = ("model.backbone.depth=18", "model.backbone.dilated_c5=false")
    assert not wiring.implied_config(_found("coco_r50_dc5.yaml", *single)).model.backbone.dilated_c5
    assert wiring.implied_config(_found("coco_r50_dc5.yaml")).model.backbone.dilated_c5


def test_assumptions_tell_sizes_and_names_and_go_when_told() -> None:
    found = _found("coco_r18.yaml", classes=3)
    config = wiring.implied_config(found)
    said = " | ".join(wiring.assumptions(found, config))
    assert "images go through resize_shortest short=[800] max=1333 (data.eval_transforms)" in said
    assert "the classes have their numbers for names" in said and "pixels in the order BGR" in said
    told = wiring.assumptions(found, config, ["model.pixels.std=[1,1,1]", "data.eval_transforms.0.short=[600]"])
    assert not any("pixels in the order" in text or "images go" in text for text in told)


def test_a_bare_state_dict_does_not_tell_its_model() -> None:
    with pytest.raises(WeightsError, match=r"x\.pth: does not tell what model.*detres convert --from torchvision"):
        wiring.implied_config(LoadedWeights({"conv1.weight": torch.zeros(1)}, source="x.pth"))


def test_offline_means_torchvisions_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRES_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nowhere")
    with pytest.raises(WeightsError, match=r"DETRES_OFFLINE is set.*put it at /nowhere/checkpoints/resnet18-"):
        read_state_dict("torchvision:ResNet18_Weights.IMAGENET1K_V1")


def test_a_forgotten_prefix_is_suggested() -> None:
    name = "detectron2/faster_rcnn_R_50_FPN_3x"
    with pytest.raises(WeightsError, match=f"{name}: does not exist; did you mean zoo:{name}"):
        wiring.model_from_checkpoint(name)


def test_the_conventions_of_both_toolkits_differ_where_they_should() -> None:
    with torch.device("meta"):
        model = wiring.build_model(load_config("coco_r18.yaml", ["model.backbone.weights=null"]).config, 80)
    theirs = detectron2.implied(detectron2.from_detres(model.state_dict()), {}).model
    others = mmdetection.implied(mmdetection.from_detres(model.state_dict()), {}).model
    assert (theirs["anchors"]["order"], others["anchors"]["order"]) == ("size_major", "ratio_major")
    assert others["roi_heads"]["symmetric_clamp"] and not theirs["roi_heads"].get("symmetric_clamp", False)
