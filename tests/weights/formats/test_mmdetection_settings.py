"""What mmdetection's configurations say, what its conventions compute, and what is said of exported files."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detres import wiring
from detres.config.model import ClassifierSettings, FasterRCNNSettings
from detres.detector import FasterRCNN
from detres.structures import ImageBatch
from detres.weights.formats import mmdetection
from detres.weights.formats.mmdetection_config import class_names_in, read_config
from tests.weights.formats import mmdetection_names as names

# As tools/train.py of mmdetection 2.x writes it into its checkpoints
CAFFE_2X = """
model = dict(
    type='FasterRCNN',
    backbone=dict(type='ResNet', depth=50, frozen_stages=1, norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True, style='caffe'),
    rpn_head=dict(anchor_generator=dict(type='AnchorGenerator', scales=[4, 8], ratios=[0.5, 1.0],
        strides=[4, 8, 16, 32, 64]), loss_bbox=dict(type='SmoothL1Loss', loss_weight=1.0)),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2, aligned=False)),
        bbox_head=dict(num_classes=80, reg_decoded_bbox=True, bbox_coder=dict(type='DeltaXYWHBBoxCoder',
            target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.05, 0.05, 0.1, 0.1]),
            loss_bbox=dict(type='GIoULoss', loss_weight=10.0))))
train_cfg = dict(rpn=dict(allowed_border=0), rcnn=dict(sampler=dict(num=128, add_gt_as_proposals=False)))
test_cfg = dict(
    rpn=dict(nms_pre=2000, max_num=500, nms_thr=0.6, min_bbox_size=4),
    rcnn=dict(score_thr=0.01, nms=dict(type='soft_nms', iou_thr=0.4, min_score=0.01), max_per_img=50))
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
lr = 0.02 * 8 / len([1])
"""


def test_the_text_of_2x() -> None:
    theirs = names.detector("fpn", 50)
    theirs["rpn_head.rpn_cls.weight"] = names.tensor(4, 256, 1, 1)
    implied = mmdetection.implied(theirs, {"meta": {"config": CAFFE_2X, "CLASSES": [f"c{i}" for i in range(80)]}})
    assert implied.class_names[-1] == "c79" and implied.assumed == ()
    model = FasterRCNNSettings.model_validate(implied.model)
    assert (model.pixels.channel_order, model.pixels.std) == ("bgr", [1.0, 1.0, 1.0])
    assert (model.backbone.stride_in_1x1, model.backbone.frozen_stages, model.backbone.norm) == (
        True,
        2,
        "frozen_batch",
    )
    assert model.anchors.sizes[1] == [32.0, 64.0] and model.anchors.aspect_ratios == [0.5, 1.0]
    assert (model.rpn.box_loss, model.rpn.smooth_l1_beta, model.rpn.straddle_threshold) == ("smooth_l1", 1.0, 0.0)
    assert (model.rpn.pre_nms_top_n_test, model.rpn.post_nms_top_n_test) == (2000, 500)
    assert (model.rpn.nms_iou, model.rpn.min_size) == (0.6, 4.0)
    heads = model.roi_heads
    assert (heads.pool.sampling_ratio, heads.pool.aligned, heads.box_coder_weights) == (2, False, [20, 20, 10, 10])
    assert (heads.box_loss, heads.box_loss_weight) == ("giou", 10.0)
    assert (heads.sampling.batch_size, heads.add_ground_truth) == (128, False)
    assert (heads.nms, heads.score_threshold, heads.detections_per_image) == ("soft_linear", 0.01, 50)


def test_what_detres_does_otherwise_is_said() -> None:
    text = CAFFE_2X.replace("target_means=[0.0,", "target_means=[0.1,").replace("min_score=0.01", "min_score=0.001")
    said = mmdetection.implied(names.detector("fpn", 50), {"meta": {"cfg": text.replace("GIoU", "BoundedIoU")}}).assumed
    assert [line.split(":")[0] for line in said] == ["not the same"] * 3
    assert any("target_means" in line for line in said) and any("BoundedIoULoss" in line for line in said)
    assert any("soft NMS" in line for line in said)


def test_values_of_no_use_are_named_and_left_out() -> None:
    text = CAFFE_2X.replace("allowed_border=0", "assigner=dict(neg_iou_thr=(0.0, 0.3))")
    implied = mmdetection.implied(names.detector("fpn", 50), {"meta": {"cfg": text}})
    assert any("neg_iou_thr" in line or "negative_iou" in line for line in implied.assumed)
    FasterRCNNSettings.model_validate(implied.model)


def test_a_configuration_is_read_and_never_run(tmp_path: Path) -> None:
    victim = tmp_path / "written"
    text = f"open({str(victim)!r}, 'w')\na = __import__('os').mkdir({str(victim)!r})\nb = dict(c=open, d=[1, -2.5])\n"
    assert read_config(text) == {"b": {"d": [1, -2.5]}} and not victim.exists()
    assert read_config("no Python at all") == {} and read_config("(" * 10_000) == {}


def test_files_one_after_the_other() -> None:
    text = "/configs/base.py\nnorm_cfg = dict(type='BN')\nmodel = dict(a=1, b=dict(c=2, n=norm_cfg))\n"
    text += "\nconfigs/own.py\n_base_ = './base.py'\nmodel = dict(b=dict(c=3))\n"
    assert read_config(text)["model"] == {"a": 1, "b": {"c": 3, "n": {"type": "BN"}}}
    assert read_config(text + "model = dict(_delete_=True, z=1)")["model"]["z"] == 1
    assert "a" not in read_config(text + "model = dict(_delete_=True, z=1)")["model"]


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"dataset_meta": {"classes": ("a", "b")}}, ("a", "b")),
        ({"dataset_meta": {"CLASSES": ["a"]}}, ("a",)),
        ({"CLASSES": ("a", "b")}, ("a", "b")),
        ({"CLASSES": "a"}, ("a",)),
        ({}, ()),
        (None, ()),
    ],
)
def test_class_names(meta: Any, expected: tuple[str, ...]) -> None:
    assert class_names_in({"meta": meta}) == expected


def small(**files: str) -> tuple[FasterRCNN, dict[str, Tensor]]:
    """A converted ResNet-18 detector of three classes whose second stage says the same of every region."""
    theirs = {key: torch.zeros(t.shape) for key, t in names.detector("fpn", 18, classes=3).items()}
    settings = FasterRCNNSettings.model_validate(mmdetection.implied(theirs, {"meta": files}).model)
    model = wiring.build_detector(settings, 3)
    return model.eval(), theirs


@torch.no_grad()
def test_the_background_is_last_and_boxes_are_decoded_as_there() -> None:
    model, theirs = small()
    theirs["roi_head.bbox_head.fc_cls.bias"] = torch.tensor([-9.0, 2.0, -9.0, 2.0])  # class 1 and the background
    deltas = torch.zeros(3, 4)
    deltas[1] = torch.tensor([1.0, -2.0, 3.0, -30.0])  # times 0.1, 0.1, 0.2, 0.2; the last is clamped at -4.135
    theirs["roi_head.bbox_head.fc_reg.bias"] = deltas.flatten()
    model.load_state_dict(mmdetection.to_detres(theirs))
    logits, found = model.roi_heads.box_predictor(torch.zeros(1, 1024))
    scores = model.roi_heads.box_predictor.probabilities(logits)
    assert scores[0].tolist() == pytest.approx([0, 0.5, 0], abs=1e-4)
    proposal, size = torch.tensor([[40.0, 50.0, 80.0, 150.0]]), torch.tensor([400, 400])
    detections = model.roi_heads._detect_one(scores, found, proposal, size)
    assert detections.labels.tolist() == [1] and float(detections.scores[0]) == pytest.approx(0.5, abs=1e-4)
    x, y, width, height = 60 + 0.1 * 40, 100 - 0.2 * 100, 40 * math.exp(0.6), 100 * 16 / 1000
    expected = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    assert detections.boxes_xyxy[0].tolist() == pytest.approx(expected, rel=1e-4)


def test_regions_are_sampled_as_there() -> None:
    """On a ramp, RoIAlign gives the position of every bin's centre, half a cell less than in the picture's cells."""
    model, _ = small()
    ramps = [torch.arange(64.0 / 2**i).repeat(1, 1, int(64 / 2**i), 1) for i in range(4)]
    pooled = model.roi_heads.pooler(ramps, torch.tensor([[[20.0, 20.0, 76.0, 76.0]]]))  # 56 pixels: stride 4
    centres = torch.tensor([20.0 + 8 * (i + 0.5) for i in range(7)]) / 4 - 0.5
    torch.testing.assert_close(pooled[0, 0], centres.expand(7, 7), rtol=1e-5, atol=1e-5)


def test_pixels_of_the_caffe_style() -> None:
    model, _ = small(config=CAFFE_2X.replace("scales=[4, 8], ratios=[0.5, 1.0]", "scales=[8], ratios=[0.5, 1.0, 2.0]"))
    picture = torch.tensor([200.0, 150.0, 100.0])[:, None, None].expand(3, 32, 32)  # red, green, blue
    pixels = model.pixels(ImageBatch.from_images([picture]))
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([100 - 103.53, 150 - 116.28, 200 - 123.675])


def test_instructions_for_a_detector_that_mmdetection_can_be() -> None:
    theirs = names.detector("c4", 50, classes=20)
    settings = FasterRCNNSettings.model_validate(mmdetection.implied(theirs, {}).model).model_dump()
    lines = mmdetection.instructions(settings, mmdetection.to_detres(theirs))
    assert lines[-1] == "load_from = 'FILE'"
    model = read_config("\n".join(lines))["model"]
    assert model["backbone"]["style"] == "caffe" and model["data_preprocessor"]["bgr_to_rgb"] is False
    assert model["roi_head"]["shared_head"]["type"] == "ResLayer"
    assert model["roi_head"]["bbox_head"]["num_classes"] == 20
    again = mmdetection.implied(theirs, {"meta": {"cfg": "\n".join(lines)}})
    assert again.assumed == () and FasterRCNNSettings.model_validate(again.model).model_dump() == settings


def test_instructions_say_what_is_not_the_same() -> None:
    settings = FasterRCNNSettings(
        type="faster_rcnn",
        neck={},
        anchors={"rounded": True, "stride": "from_shape"},
        roi_heads={"sampling": {"ohem": True}},
    )
    state = mmdetection.to_detres(names.detector("fpn", 50))
    said = [
        line for line in mmdetection.instructions(settings.model_dump(), state) if line.startswith("not the same: ")
    ]
    wanted = (
        "rpn.symmetric_clamp",
        "roi_heads.symmetric_clamp",
        "anchors.rounded",
        "anchors.stride",
        "roi_heads.sampling.ohem",
    )
    assert all(any(f"model.{key}" in line for line in said) for key in wanted)


def test_dilated_basic_blocks_differ() -> None:
    theirs = names.detector("dc5", 18)
    implied = mmdetection.implied(theirs, {})
    assert any(line.startswith("not the same") and "basic block" in line for line in implied.assumed)
    settings = FasterRCNNSettings.model_validate(implied.model).model_dump()
    assert any("basic block" in line for line in mmdetection.instructions(settings, mmdetection.to_detres(theirs)))


def test_instructions_for_a_classifier() -> None:
    settings = ClassifierSettings(type="classifier", backbone={"depth": 101, "groups": 32, "width_per_group": 8})
    state = mmdetection.to_detres(names.backbone(101, groups=32, base_width=8))
    model = read_config("\n".join(mmdetection.instructions(settings.model_dump(), state)))["model"]
    assert (model["backbone"]["type"], model["backbone"]["base_width"]) == ("ResNeXt", 8)
    assert model["backbone"]["init_cfg"]["type"] == "Pretrained"
