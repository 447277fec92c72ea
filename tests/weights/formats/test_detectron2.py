"""detectron2's names there and back, what its files imply, and the settings that it needs for an export."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from detres import wiring
from detres.config import load_config
from detres.config.model import FasterRCNNSettings
from detres.weights.formats import detectron2
from detres.weights.formats.class_names import VOC_20, coco_80
from detres.weights.formats.shapes import merge
from detres.weights.report import WeightsError

State = dict[str, Tensor]

FORMS = {"C4": "coco_r50_c4.yaml", "DC5": "coco_r50_dc5.yaml", "FPN": "coco_r50.yaml"}
RESNETS = {
    "R50": {"depth": 50, "stride_in_1x1": True},
    "R101": {"depth": 101, "stride_in_1x1": True},
    "X101": {"depth": 101, "groups": 32, "width_per_group": 8},
}
MSRA_PIXELS = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "channel_order": "bgr"}
FAIR_STD = [57.375, 57.12, 58.395]
# Large scale jitter's recipe: norms everywhere, a head of convolutions, an RPN of two
NEW_BASELINE = [
    "model.backbone.norm=batch",
    "model.neck.norm=batch",
    "model.rpn.convs=2",
    "model.roi_heads.box_head={type: conv_fc, num_convs: 4, norm: batch}",
]


def make(name: str, *overrides: str, backbone: dict[str, Any] | None = None, classes: int = 80) -> tuple[State, dict]:
    """A model's state dict, without numbers in it, and its settings."""
    listed = [f"model.backbone.{key}={value}" for key, value in (backbone or {}).items()]
    config = load_config(name, ["model.backbone.weights=null", *listed, *overrides]).config
    with torch.device("meta"):
        return wiring.build_model(config, classes).state_dict(), config.model.model_dump()


def shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def same_tensors(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(first[key] is second[key] for key in first)


@pytest.mark.parametrize("form", ["C4", "FPN"])
def test_an_export_has_exactly_the_keys_and_shapes_that_detectron2_lists(golden: Path, form: str) -> None:
    state, _ = make(FORMS[form])
    listing = json.loads((golden / f"state_dict_R50-{form}.json").read_text())
    assert shapes(detectron2.from_detres(state)) == {key: tuple(shape) for key, (shape, _) in listing.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("resnet", RESNETS)
def test_there_and_back_with_the_settings_that_the_file_implies(resnet: str, form: str) -> None:
    state, model = make(FORMS[form], backbone=RESNETS[resnet])
    theirs = detectron2.from_detres(state)
    assert detectron2.recognises(theirs) and not detectron2.recognises(state)
    assert not any("layer" in key or "downsample" in key or "fc6" in key for key in theirs)
    assert same_tensors(detectron2.to_detres(theirs), state)
    assert same_tensors(detectron2.from_detres(detectron2.to_detres(theirs)), theirs)

    found = detectron2.implied(theirs, {})
    std = FAIR_STD if resnet == "X101" else MSRA_PIXELS["std"]
    pixels = {**MSRA_PIXELS, "std": std, "size_divisibility": 32 if form == "FPN" else 0}
    assert FasterRCNNSettings.model_validate(found.model).model_dump() == merge(model, {"pixels": pixels})
    assert found.class_names == coco_80()
    assert any("model.backbone.stride_in_1x1" in text for text in found.assumed)
    assert any("model.backbone.dilated_c5" in text for text in found.assumed) == (form == "DC5")


def test_basic_blocks_group_norms_and_the_large_scale_jitter_recipe() -> None:
    state, _ = make("coco_r18.yaml", classes=20)
    theirs = detectron2.from_detres(state)
    assert theirs["backbone.bottom_up.res3.0.shortcut.norm.weight"].shape == (128,)
    assert same_tensors(detectron2.to_detres(theirs), state)
    found = detectron2.implied(theirs, {})
    assert "stride_in_1x1" not in found.model["backbone"] and found.class_names == VOC_20

    state, _ = make("coco_r50.yaml", "model.backbone.norm=group", "model.neck.norm=group")
    theirs = detectron2.from_detres(state)
    assert "backbone.fpn_lateral2.norm.bias" in theirs and "backbone.fpn_lateral2.bias" not in theirs
    assert same_tensors(detectron2.to_detres(theirs), state)
    assert detectron2.implied(theirs, {}).model["backbone"]["stride_in_1x1"] is False

    state, model = make("coco_r50.yaml", *NEW_BASELINE)
    theirs = detectron2.from_detres(state)
    assert {"proposal_generator.rpn_head.conv.conv1.weight", "roi_heads.box_head.conv4.norm.num_batches_tracked",
            "roi_heads.box_head.fc1.bias"} <= set(theirs)  # fmt: skip
    assert same_tensors(detectron2.to_detres(theirs), state)
    implied = FasterRCNNSettings.model_validate(detectron2.implied(theirs, {}).model).model_dump()
    assert all(implied[key] == model[key] for key in ("neck", "rpn", "roi_heads"))
    assert implied["backbone"]["norm"] == "batch" and implied["backbone"]["frozen_stages"] == 0


def test_pyramids_of_other_levels_and_retinanets_top() -> None:
    sizes = "model.anchors.sizes=[[64],[128],[256],[512],[1024]]"
    state, _ = make("coco_r18.yaml", "model.backbone.out_features=[c3,c4,c5]", "model.neck.top=conv", sizes)
    theirs = detectron2.from_detres(state)
    assert {"backbone.fpn_lateral3.weight", "backbone.fpn_output5.bias", "backbone.top_block.p7.weight"} <= set(theirs)
    assert "backbone.fpn_lateral2.weight" not in theirs
    assert same_tensors(detectron2.to_detres(theirs), state)


def test_a_training_checkpoint_tells_its_pixels_and_anchors() -> None:
    state, _ = make("coco_r50_c4.yaml")
    theirs = detectron2.from_detres(state)
    sides = [
        (size * ratio**-0.5 / 2, size * ratio**0.5 / 2) for size in (24, 48, 96, 192, 384) for ratio in (0.5, 1, 2)
    ]
    cell = torch.tensor([[-w, -h, w, h] for w, h in sides])
    more = {
        "pixel_mean": torch.tensor([123.675, 116.28, 103.53]).reshape(3, 1, 1),
        "pixel_std": torch.tensor([58.395, 57.12, 57.375]).reshape(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": cell,
    }
    assert same_tensors(detectron2.to_detres({**theirs, **more}), state)
    found = detectron2.implied({**theirs, **more}, {"iteration": 90000})
    assert found.model["pixels"] == {
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "channel_order": "rgb",
        "size_divisibility": 0,
    }
    assert found.model["backbone"]["stride_in_1x1"] is False  # such pixels belong to torchvision's weights
    assert found.model["anchors"]["sizes"] == [[24.0, 48.0, 96.0, 192.0, 384.0]]
    assert found.model["anchors"]["aspect_ratios"] == [0.5, 1.0, 2.0]
    assert not any("model.anchors" in text for text in found.assumed)

    more["proposal_generator.anchor_generator.cell_anchors.0"] = torch.cat([cell[1:], cell[:1]])
    found = detectron2.implied({**theirs, **more}, {})
    assert found.model["anchors"]["sizes"] == [[32.0, 64.0, 128.0, 256.0, 512.0]]
    assert any("no product of sizes and ratios" in text for text in found.assumed)


def test_what_has_no_name_is_listed() -> None:
    state, _ = make("coco_r18.yaml")
    theirs = detectron2.from_detres(state)
    mask = {"roi_heads.mask_head.mask_fcn1.weight": torch.zeros(1), "roi_heads.box_head.conv1.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match="detectron2: 3 of .*box_head.fc2.*mask_fcn1"):
        detectron2.to_detres({**theirs, **mask} | {"roi_heads.box_head.fc1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"1 of .*rpn\.head\.extra"):
        detectron2.from_detres({**state, "rpn.head.extra": torch.zeros(1)})
    with pytest.raises(WeightsError, match="avg_pool_shortcut"):
        detectron2.from_detres(make("coco_r50.yaml", "model.backbone.avg_pool_shortcut=true")[0])


def as_the_converter_writes(key: str) -> str:
    """A key of torchvision's ResNets as detectron2's tools/convert-torchvision-to-d2.py has it."""
    name = key if key.startswith("layer") else f"stem.{key}"
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    for old, new in [(f"layer{i}", f"res{i + 1}") for i in range(1, 5)] + [
        (f"bn{i}", f"conv{i}.norm") for i in (1, 2, 3)
    ]:
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("architecture", ["resnet18", "resnet101", "resnext50_32x4d"])
def test_torchvisions_classifiers_in_detectron2s_names(architecture: str) -> None:
    import torchvision

    make_model: Callable[[], torch.nn.Module] = getattr(torchvision.models, architecture)
    with torch.device("meta"):
        original = make_model().state_dict()
    theirs = {as_the_converter_writes(key): tensor for key, tensor in original.items()}
    assert detectron2.recognises(theirs)
    ours = detectron2.to_detres(theirs)
    assert ours["fc.weight"] is theirs["stem.fc.weight"]
    assert ours["backbone.bn1.running_var"] is original["bn1.running_var"]
    assert same_tensors(detectron2.from_detres(ours), theirs)
    found = detectron2.implied(theirs, {"__author__": "torchvision", "matching_heuristics": True})
    assert found.model["type"] == "classifier" and found.model["backbone"].get("stride_in_1x1", False) is False
    assert found.model["pixels"]["channel_order"] == "rgb" and found.model["pixels"]["std"] == [58.395, 57.12, 57.375]


def test_bare_backbones_with_and_without_a_pyramid_and_the_deep_stem() -> None:
    state, _ = make("coco_r50.yaml", "model.backbone.deep_stem=true")
    bare = {key: tensor for key, tensor in state.items() if key.startswith("backbone.")}
    theirs = detectron2.from_detres(bare)
    assert theirs["bottom_up.stem.conv2.norm.bias"] is bare["backbone.body.conv1.4.bias"]
    assert theirs["bottom_up.stem.conv3.norm.bias"] is bare["backbone.body.bn1.bias"]
    assert "fpn_output2.bias" in theirs and detectron2.recognises(theirs)
    assert same_tensors(detectron2.to_detres(theirs), bare)
    assert detectron2.implied(theirs, {}).model["backbone"]["deep_stem"] is True
    assert same_tensors(detectron2.to_detres(detectron2.from_detres(state)), state)


def settings(lines: list[str]) -> dict[str, Any]:
    """The settings by their dotted names, of the types that detectron2 sees."""
    found = {}

    def walk(tree: dict[str, Any], path: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                walk(value, f"{path}{key}.")
            else:
                found[f"{path}{key}"] = value

    walk(yaml.safe_load("\n".join(line for line in lines if not line.startswith("not the same"))), "")
    return found


def test_settings_for_an_export_are_those_of_detectron2s_base_configurations() -> None:
    state, model = make("coco_r50.yaml", f"model.pixels={MSRA_PIXELS}", backbone=RESNETS["R50"], classes=7)
    lines = detectron2.instructions(model, state)
    assert not any(line.startswith("not the same") for line in lines)
    found = settings(lines)
    assert found["MODEL.RESNETS.DEPTH"] == 50 and found["MODEL.RESNETS.STRIDE_IN_1X1"] is True
    assert found["MODEL.RESNETS.NORM"] == "FrozenBN" and found["MODEL.BACKBONE.FREEZE_AT"] == 2
    assert found["INPUT.FORMAT"] == "BGR" and found["MODEL.PIXEL_STD"] == [1.0, 1.0, 1.0]
    assert found["MODEL.ANCHOR_GENERATOR.SIZES"] == [[32], [64], [128], [256], [512]]
    assert found["MODEL.RPN.IN_FEATURES"] == ["p2", "p3", "p4", "p5", "p6"]
    assert found["MODEL.ROI_HEADS.IN_FEATURES"] == ["p2", "p3", "p4", "p5"]
    assert found["MODEL.ROI_HEADS.NUM_CLASSES"] == 7 and found["MODEL.ROI_BOX_HEAD.NUM_FC"] == 2
    assert found["MODEL.ROI_BOX_HEAD.POOLER_TYPE"] == "ROIAlignV2" and found["MODEL.FPN.NORM"] == ""
    for key, kind in {
        "PROPOSAL_GENERATOR.MIN_SIZE": int,
        "RPN.BOUNDARY_THRESH": int,
        "RPN.SMOOTH_L1_BETA": float,
    }.items():
        assert type(found[f"MODEL.{key}"]) is kind, key
    counts = ("PRE_NMS_TOPK_TRAIN", "PRE_NMS_TOPK_TEST", "POST_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TEST")
    assert [found[f"MODEL.RPN.{name}"] for name in counts] == [2000, 1000, 1000, 1000]

    c4 = settings(detectron2.instructions(make("coco_r50_c4.yaml")[1], state))
    assert (c4["MODEL.ROI_HEADS.NAME"], c4["MODEL.RESNETS.OUT_FEATURES"]) == ("Res5ROIHeads", ["res4"])
    assert c4["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"] == 14 and c4["MODEL.RPN.PRE_NMS_TOPK_TEST"] == 6000
    assert settings(detectron2.instructions(make("coco_r50_dc5.yaml")[1], state))["MODEL.RESNETS.RES5_DILATION"] == 2


def test_what_detectron2_does_otherwise_is_said() -> None:
    state, model = make("coco_r50_torchvision.yaml")
    model = merge(model, {"rpn": {"symmetric_clamp": True}, "pixels": {"size_divisibility": 64}})
    model = merge(model, {"roi_heads": {"sampling": {"ohem": True}}})
    lines = [line for line in detectron2.instructions(model, state) if line.startswith("not the same: ")]
    for setting in ("model.anchors.rounded", "model.rpn.symmetric_clamp", "model.pixels.size_divisibility",
                    "model.roi_heads.min_size", "model.rpn.normalize_by", "model.rpn.min_size",
                    "model.roi_heads.sampling.ohem"):  # fmt: skip
        assert sum(setting in line for line in lines) == 1, setting
    small = make("coco_r50_c4.yaml", "model.backbone.depth=18")[1]
    assert any("basic blocks" in line for line in detectron2.instructions(small, state))
    assert detectron2.instructions({"type": "classifier", "backbone": {"type": "vgg"}}, {}) == [
        "not the same: detectron2 has no vgg backbone"
    ]
