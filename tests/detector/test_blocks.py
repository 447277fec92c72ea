"""Single building blocks against the numbers of other implementations (blocks.json, recorded from detectron2)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detres.backbones.interface import FeatureSpec
from detres.detector.anchors import AnchorGenerator
from detres.detector.box_coder import BoxCoder
from detres.detector.box_head import BoxPredictor
from detres.detector.losses import IOU_LOSSES, smooth_l1
from detres.detector.roi_heads import RoIHeads
from detres.detector.rpn import RPN
from detres.detector.target_assignment import match
from detres.layers.nms import batched_nms
from detres.layers.roi_pool import RoIPooler, assign_levels
from detres.structures import ImageBatch
from detres.structures.boxes import pairwise_iou


@pytest.fixture(scope="module")
def blocks(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "blocks.json").read_text())


def close(got: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, torch.tensor(expected, dtype=got.dtype), rtol=tolerance, atol=tolerance)


def test_anchors(blocks: dict[str, Any]) -> None:
    case = blocks["anchors"]
    generator = AnchorGenerator([case["sizes"]], case["aspect_ratios_h_over_w"])
    close(generator.cell_anchors(0), case["cell_anchors"])
    close(generator([tuple(case["grid_hw"])], [case["stride"]], (32, 48))[0], case["anchors"])


def test_box_coder(blocks: dict[str, Any]) -> None:
    case = blocks["box_coder"]
    coder = BoxCoder(case["weights"])
    source, target = torch.tensor(case["src"]), torch.tensor(case["dst"])
    close(coder.encode(target, source), case["encode"])
    close(coder.decode(coder.encode(target, source), source), case["decode_of_encode"], 1e-4)
    close(coder.decode(torch.tensor(case["deltas"]), source), case["decode"], 1e-4)
    close(BoxCoder().decode(torch.tensor(case["weights_1_deltas"]), source), case["weights_1_decode"], 1e-4)
    specific = case["class_specific"]
    decoded = coder.decode(
        torch.tensor(specific["deltas"]).unflatten(1, (-1, 4)), torch.tensor(specific["box"])[:, None]
    )
    close(decoded.flatten(1), specific["decode"])


def test_matcher(blocks: dict[str, Any]) -> None:
    case = blocks["matcher"]
    negative, positive = case["thresholds"]
    for name, one in case["cases"].items():
        iou = torch.tensor(one["iou"]).reshape(1, len(one["iou"]), -1 if one["iou"] else one["predictions"])
        for kind in ("plain", "low_quality"):
            if kind in one:
                got = match(iou, positive, negative, low_quality=kind == "low_quality")
                assert got.labels[0].tolist() == one[kind]["label"], (name, kind)
                assert got.matches[0].tolist() == one[kind]["match"], (name, kind)
    second = case["roi_heads"]
    got = match(torch.tensor(second["iou"])[None], 0.5, 0.5, low_quality=False)
    assert (got.labels[0].tolist(), got.matches[0].tolist()) == (second["label"], second["match"])


def test_pairwise_iou(blocks: dict[str, Any]) -> None:
    case = blocks["pairwise_iou"]
    close(pairwise_iou(torch.tensor(case["a"]), torch.tensor(case["b"])), case["iou"])


def test_roi_align(blocks: dict[str, Any]) -> None:
    case = blocks["roi_align"]
    image = (10 * torch.arange(8.0)[:, None] + torch.arange(10.0))[None, None]
    rois = torch.tensor(case["rois_batch_x1y1x2y2"])[None, :, 1:]
    for one in case["cases"]:
        pooler = RoIPooler(
            [round(1 / one["spatial_scale"])],
            output_size=one["output"],
            sampling_ratio=one["sampling_ratio"],
            aligned=one["aligned"],
        )
        close(pooler([image], rois)[:, 0], one["value"], 1e-4)


def test_levels(blocks: dict[str, Any]) -> None:
    case = blocks["assign_boxes_to_levels"]
    got = assign_levels(
        torch.tensor(case["boxes"]),
        case["min_level"],
        case["max_level"],
        case["canonical_box_size"],
        case["canonical_level"],
    )
    assert got.tolist() == case["level"]


def test_batched_nms(blocks: dict[str, Any]) -> None:
    case = blocks["batched_nms"]
    boxes, scores, classes = (torch.tensor(case[name]) for name in ("boxes", "scores", "classes"))
    for threshold, keep in case["keep"].items():
        assert batched_nms(boxes, scores, classes, float(threshold)).tolist() == keep
    agnostic = batched_nms(boxes, scores, torch.zeros_like(classes), 0.5)
    assert agnostic.tolist() == case["keep_class_agnostic_0_5"]


def test_proposals(blocks: dict[str, Any]) -> None:
    case = blocks["rpn_proposals"]
    top, most = case["pre_nms_topk"], case["post_nms_topk"]
    rpn = RPN(
        {"c4": FeatureSpec(8, 16)},
        AnchorGenerator([[32.0]]),
        pre_nms_top_n=(top, top),
        post_nms_top_n=(most, most),
        nms_iou=case["nms"],
    )
    # Anchors are the given boxes themselves and the deltas are zero, so that decoding changes nothing.
    boxes = [torch.tensor(level["boxes"]) for level in case["levels"]]
    logits = [torch.tensor(level["logits"])[None] for level in case["levels"]]
    sizes = torch.tensor([case["image_hw"]])
    got = rpn.propose(logits, [torch.zeros_like(b)[None] for b in boxes], boxes, sizes)
    close(got.boxes_xyxy[0][got.valid[0]], case["boxes"])
    close(got.logits[0][got.valid[0]], case["logits"])


def heads(num_classes: int, **settings: Any) -> RoIHeads:
    return RoIHeads(["p2"], RoIPooler([4]), nn.Identity(), BoxPredictor(4, num_classes), **settings)


def test_detections(blocks: dict[str, Any]) -> None:
    case = blocks["detections"]
    roi_heads = heads(
        3, score_threshold=case["score_threshold"], nms_iou=case["nms"], detections_per_image=case["topk"]
    )
    boxes = torch.tensor([[float("nan") if v is None else v for v in row] for row in case["boxes"]])
    # All proposals are one unit box at the origin: deltas are then the boxes themselves, encoded.
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0])
    deltas = roi_heads.coder.encode(boxes.unflatten(1, (3, 4)), unit)
    roi_heads.coder.max_log_scale = 100.0
    scores = roi_heads.box_predictor.probabilities(torch.tensor(case["scores"]).log())
    kept = roi_heads._detect_one(scores, deltas, unit.expand(4, 4), torch.tensor([100, 120]))
    close(kept.boxes_xyxy, case["out_boxes"], 1e-4)
    close(kept.scores, case["out_scores"], 1e-6)
    assert kept.labels.tolist() == case["out_classes"]


def test_losses(blocks: dict[str, Any]) -> None:
    case = blocks["smooth_l1"]
    for beta, expected in case["loss"].items():
        close(smooth_l1(torch.tensor(case["difference"]), float(beta)), expected)
    case = blocks["iou_losses"]
    for kind, loss in IOU_LOSSES.items():
        got = loss(torch.tensor(case["pred"]), torch.tensor(case["target"]), reduction="none")
        close(got, case[kind], 1e-5)


def test_padding(blocks: dict[str, Any]) -> None:
    case = blocks["image_list"]
    images = [torch.ones(3, *size) for size in case["inputs_hw"]]
    batch = ImageBatch.from_images(images, size_divisibility=case["size_divisibility"])
    assert list(batch.pixels.shape) == case["tensor_shape"]
    assert batch.pixels.sum(dim=(1, 2, 3)).tolist() == case["sum_per_image"]
    assert list(ImageBatch.from_images(images[:1]).pixels.shape) == case["one_image_30x50_div32"]
    assert list(ImageBatch.from_images(images, size_divisibility=0).pixels.shape) == case["two_images_div0"]
