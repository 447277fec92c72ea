"""A torchvision Faster R-CNN and ours with the same random weights, for parity tests."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2

from detres import wiring
from detres.config import load_config
from detres.detector import FasterRCNN
from detres.jobs.benchmark.twins import randomise
from detres.structures import ImageBatch

CONFIGS = {1: "coco_r50_torchvision.yaml", 2: "coco_r50_torchvision_v2.yaml"}
NUM_CLASSES = 5
NO_CUT = 10_000  # detections per image: a cut among scores equal up to rounding would be a coin toss
EVERYTHING = 1 << 18  # a sample size that takes every anchor and proposal


def torchvision_model(version: int, short_side: int, **settings: Any) -> TorchvisionFasterRCNN:
    make = fasterrcnn_resnet50_fpn if version == 1 else fasterrcnn_resnet50_fpn_v2
    model = make(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES + 1,
        min_size=short_side,
        **settings,
    )
    randomise(model)
    return model.eval()


def detres_model(version: int) -> FasterRCNN:
    """Ours, by the shipped configuration that says to compute as torchvision does."""
    overrides = [
        "model.backbone.norm=batch",  # as torchvision's when it is built without any weights
        "model.backbone.norm_eps=1e-5",
        "model.backbone.frozen_stages=0",
        f"model.rpn.sampling.batch_size={EVERYTHING}",
        "model.rpn.pre_nms_top_n_train=300",
        "model.rpn.pre_nms_top_n_test=250",
        "model.rpn.post_nms_top_n_train=150",
        "model.rpn.post_nms_top_n_test=200",
        f"model.roi_heads.sampling.batch_size={EVERYTHING}",
        "model.roi_heads.sampling.positive_fraction=0.5",
        "model.roi_heads.score_threshold=0.005",
        f"model.roi_heads.detections_per_image={NO_CUT}",
    ]
    settings = load_config(CONFIGS[version], overrides).config.model
    return wiring.build_detector(settings, NUM_CLASSES).eval()


def twins(version: int, short_side: int) -> tuple[TorchvisionFasterRCNN, FasterRCNN]:
    """torchvision's model and ours, the same weights in both."""
    theirs = torchvision_model(
        version,
        short_side,
        rpn_batch_size_per_image=EVERYTHING,
        box_batch_size_per_image=EVERYTHING,
        box_positive_fraction=0.5,
        box_score_thresh=0.005,
        box_detections_per_img=NO_CUT,
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=250,
        rpn_post_nms_top_n_train=150,
        rpn_post_nms_top_n_test=200,
    )
    ours = detres_model(version)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def images_and_batch(sizes: list[tuple[int, int]]) -> tuple[list[Tensor], ImageBatch]:
    """Random smooth pictures as torchvision takes them (0..1) and as we do (0..255)."""
    generator = torch.Generator().manual_seed(3)
    pictures = []
    for height, width in sizes:
        coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
        pictures.append(nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 1))
    return pictures, ImageBatch.from_images([picture * 255 for picture in pictures])
