"""mmdetection's names there and back, and what its files imply, by rules and by hand (no mmdet needed)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from detres import wiring
from detres.config.model import ClassifierSettings, FasterRCNNSettings
from detres.weights.formats import mmdetection
from detres.weights.report import WeightsError
from tests.weights.formats import mmdetection_names as names

CASES: dict[str, tuple[str, int, dict[str, int]]] = {
    "r18_fpn": ("fpn", 18, {}),
    "r34_fpn": ("fpn", 34, {}),
    "r50_fpn": ("fpn", 50, {}),
    "r101_fpn": ("fpn", 101, {}),
    "r152_fpn": ("fpn", 152, {}),
    "x101_32x4d_fpn": ("fpn", 101, {"groups": 32, "base_width": 4}),
    "x101_32x8d_fpn": ("fpn", 101, {"groups": 32, "base_width": 8}),
    "x101_64x4d_fpn": ("fpn", 101, {"groups": 64, "base_width": 4}),
    "r50_v1d_fpn": ("fpn", 50, {"v1d": True}),
    "r50_c4": ("c4", 50, {}),
    "r101_c4": ("c4", 101, {}),
    "r50_dc5": ("dc5", 50, {}),
    "r101_dc5": ("dc5", 101, {}),
}
RGB = {"channel_order": "rgb", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
CAFFE = {"channel_order": "bgr", "mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0]}


def built(model: dict[str, Any], num_classes: int = 80) -> dict[str, Tensor]:
    """The state dict of the detector that these settings describe, without values."""
    with torch.device("meta"):
        return wiring.build_detector(FasterRCNNSettings.model_validate(model), num_classes).state_dict()


@pytest.mark.parametrize("case", CASES)
def test_every_published_form_fits_and_comes_back(case: str) -> None:
    form, depth, options = CASES[case]
    theirs = names.detector(form, depth, **options)
    assert mmdetection.recognises(theirs)
    ours = mmdetection.to_detres(theirs)
    expected = built(mmdetection.implied(theirs, {}).model)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}
    back = mmdetection.from_detres(ours)
    assert set(back) == set(theirs) and all(back[key] is theirs[key] for key in theirs)
    assert set(mmdetection.from_detres(expected)) == set(theirs)


def test_conventions_without_a_configuration() -> None:
    fpn = mmdetection.implied(names.detector("fpn", 50), {})
    assert fpn.model["pixels"] == RGB and fpn.model["backbone"]["stride_in_1x1"] is False
    assert "model.backbone.stride_in_1x1=true" in fpn.assumed[0]
    assert "model.pixels.mean=[103.53,116.28,123.675]" in fpn.assumed[0]
    model = FasterRCNNSettings.model_validate(fpn.model)
    assert model.anchors.sizes == [[32.0], [64.0], [128.0], [256.0], [512.0]]
    assert (model.anchors.order, model.anchors.rounded, model.anchors.stride) == ("ratio_major", False, "nominal")
    assert model.rpn.symmetric_clamp and model.roi_heads.symmetric_clamp
    assert model.rpn.normalize_by == "sampled" and model.rpn.pre_nms_top_n_test == 1000
    assert model.roi_heads.background == "last" and model.roi_heads.box_coder_weights == [10.0, 10.0, 5.0, 5.0]
    assert (model.roi_heads.pool.aligned, model.roi_heads.pool.sampling_ratio) == (True, 0)
    assert (model.roi_heads.score_threshold, model.roi_heads.nms_iou) == (0.05, 0.5)
    assert (model.pixels.size_divisibility, model.roi_heads.detections_per_image) == (32, 100)


@pytest.mark.parametrize(("form", "straddle"), [("c4", -1.0), ("dc5", 0.0)])
def test_one_level_is_caffe_style(form: str, straddle: float) -> None:
    implied = mmdetection.implied(names.detector(form, 50), {})
    model = FasterRCNNSettings.model_validate(implied.model)
    assert implied.model["pixels"] == CAFFE and model.backbone.stride_in_1x1
    assert model.anchors.sizes == [[32.0, 64.0, 128.0, 256.0, 512.0]]
    assert (model.rpn.pre_nms_top_n_train, model.rpn.pre_nms_top_n_test) == (12000, 6000)
    assert (model.rpn.post_nms_top_n_train, model.rpn.straddle_threshold) == (2000, straddle)
    assert model.backbone.dilated_c5 is (form == "dc5")
    assert model.roi_heads.pool.output_size == (14 if form == "c4" else 7)
    assert "model.backbone.stride_in_1x1=false" in implied.assumed[0]


def test_resnext_32x8d_has_pixels_of_its_own() -> None:
    implied = mmdetection.implied(names.detector("fpn", 101, groups=32, base_width=8), {})
    assert implied.model["pixels"] == {**CAFFE, "std": [57.375, 57.12, 58.395]}
    assert implied.model["backbone"]["stride_in_1x1"] is False


def test_group_norms_are_called_gn_there() -> None:
    theirs = names.detector("fpn", 18)
    theirs = {k.replace(".bn", ".gn"): v for k, v in theirs.items() if not k.endswith(("mean", "var", "tracked"))}
    for i in range(4):
        for conv in ("lateral_convs", "fpn_convs"):
            del theirs[f"neck.{conv}.{i}.conv.bias"]
            theirs |= names.group_norm(f"neck.{conv}.{i}.gn", 256)
    ours = mmdetection.to_detres(theirs)
    assert "backbone.body.layer1.0.bn1.weight" in ours and "backbone.fpn.inner_blocks.0.1.weight" in ours
    implied = mmdetection.implied(theirs, {})
    assert implied.model["backbone"]["norm"] == implied.model["neck"]["norm"] == "group"
    assert set(ours) == set(built(implied.model))
    assert set(mmdetection.from_detres(ours)) == set(theirs)


@pytest.mark.parametrize("with_norm", [False, True])
def test_4conv1fc_head_more_rpn_convs_and_p7(with_norm: bool) -> None:
    theirs = {k: v for k, v in names.detector("fpn", 18).items() if "shared_fcs" not in k and "rpn_conv" not in k}
    for i in range(4):
        theirs |= names.layer(f"roi_head.bbox_head.shared_convs.{i}.conv", 256, 256, 3, 3)
        if with_norm:
            del theirs[f"roi_head.bbox_head.shared_convs.{i}.conv.bias"]
            theirs |= names.norm(f"roi_head.bbox_head.shared_convs.{i}.bn", 256)
    theirs |= names.layer("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 49)
    for i in range(2):
        theirs |= names.layer(f"rpn_head.rpn_conv.{i}.conv", 256, 256, 3, 3)
        theirs |= names.layer(f"neck.fpn_convs.{4 + i}.conv", 256, 256 if i else 512, 3, 3)
    ours = mmdetection.to_detres(theirs)
    implied = mmdetection.implied(theirs, {})
    assert implied.model["rpn"]["convs"] == 2 and implied.model["neck"]["top"] == "conv"
    assert implied.model["roi_heads"]["box_head"]["norm"] == ("batch" if with_norm else "none")
    expected = built(implied.model)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}
    assert set(mmdetection.from_detres(ours)) == set(theirs)


def test_classifiers_and_bare_backbones() -> None:
    theirs = names.backbone(50) | names.layer("head.fc", 10, 2048)  # mmpretrain's
    assert mmdetection.recognises(theirs)
    ours = mmdetection.to_detres(theirs)
    assert "backbone.layer4.2.bn3.weight" in ours and "fc.weight" in ours
    plain = mmdetection.from_detres(ours)  # as init_cfg=dict(type='Pretrained') reads it
    assert {"conv1.weight", "layer4.2.bn3.weight", "fc.bias"} <= set(plain)
    assert mmdetection.to_detres(plain) == ours
    ClassifierSettings.model_validate(mmdetection.implied(plain, {}).model)
    v1d = {key.removeprefix("backbone."): tensor for key, tensor in names.backbone(50, v1d=True).items()}
    assert mmdetection.recognises(v1d) and not mmdetection.recognises(plain)
    assert "backbone.conv1.6.weight" in mmdetection.to_detres(v1d)
    assert set(mmdetection.from_detres(mmdetection.to_detres(v1d))) == set(v1d)


def test_only_its_own_names_are_recognised() -> None:
    theirs = names.detector("fpn", 18)
    assert not mmdetection.recognises(mmdetection.to_detres(theirs))
    assert not mmdetection.recognises(["backbone.bottom_up.stem.conv1.weight", "roi_heads.box_head.fc1.weight"])
    assert not mmdetection.recognises([])


def test_left_over_keys_are_listed() -> None:
    theirs = names.detector("fpn", 18)
    with pytest.raises(WeightsError, match=r"mmdetection.*mask_head\.conv_logits\.weight"):
        mmdetection.to_detres(theirs | {"roi_head.mask_head.conv_logits.weight": names.tensor(3)})
    with pytest.raises(WeightsError, match=r"pixels\.mean_image"):
        mmdetection.from_detres(mmdetection.to_detres(theirs) | {"pixels.mean_image": names.tensor(3)})
    extra = {"data_preprocessor.mean": names.tensor(3), "ema_backbone_conv1_weight": names.tensor(3)}
    assert set(mmdetection.to_detres(theirs | extra)) == set(mmdetection.to_detres(theirs))
