"""A torchvision Faster R-CNN and ours with the same random weights, for parity tests."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2

from detres.backbones.fpn import FPN, BackboneWithFPN
from detres.backbones.resnet import ResNet
from detres.detector import FasterRCNN
from detres.detector.anchors import AnchorGenerator
from detres.detector.box_head import BoxPredictor, ConvFCHead, FCHead
from detres.detector.roi_heads import RoIHeads
from detres.detector.rpn import RPN
from detres.layers.pixels import PixelNormalizer
from detres.layers.roi_pool import RoIPooler
from detres.structures import ImageBatch

NUM_CLASSES = 5
NO_CUT = 10_000  # detections per image: a cut among scores equal up to rounding would be a coin toss
EVERYTHING = 1 << 18  # a sample size that takes every anchor and proposal


def randomise(model: nn.Module) -> None:
    """Weights under which features neither vanish nor explode and the heads find something."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * noise.abs())
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * noise)
        elif tensor.dim() == 1:
            tensor.copy_((0.25 if "bn3" in name else 1.0) * (1 + 0.1 * noise))
        elif tensor.dim() > 1:
            gain = 0.2 if "bbox_pred" in name or "cls_logits" in name else 1.0
            tensor.copy_(gain * noise * (2 / tensor[0].numel()) ** 0.5)


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
    """Ours with every option as torchvision has it."""
    norm = "batch"  # torchvision's v1 has plain batch norm too when it is built without any weights
    body = ResNet(50, norm=norm)
    backbone = BackboneWithFPN(body, FPN(body.feature_specs, norm="none" if version == 1 else "batch"))
    anchors = AnchorGenerator(
        [[32.0], [64.0], [128.0], [256.0], [512.0]], rounded=True, stride="from_shape", order="ratio_major"
    )
    sampled = {"batch_size": EVERYTHING, "positive_fraction": 0.5}
    l1 = {"box_loss": "smooth_l1", "smooth_l1_beta": 1 / 9}
    rpn = RPN(
        backbone.feature_specs,
        anchors,
        convs=version,
        normalize_by="sampled",
        pre_nms_top_n=(300, 250),
        post_nms_top_n=(150, 200),
        min_size=1e-3,
        **sampled,
        **l1,
    )
    head = FCHead(256, 7) if version == 1 else ConvFCHead(256, 7)
    pooler = RoIPooler([4, 8, 16, 32], sampling_ratio=2, aligned=False)
    predictor = BoxPredictor(1024, NUM_CLASSES, background="first")
    roi_heads = RoIHeads(
        ["p2", "p3", "p4", "p5"], pooler, head, predictor, min_size=1e-2, detections_per_image=NO_CUT, **sampled, **l1
    )
    return FasterRCNN(PixelNormalizer(), backbone, rpn, roi_heads).eval()


def twins(version: int, short_side: int) -> tuple[TorchvisionFasterRCNN, FasterRCNN]:
    """torchvision's model and ours, the same weights in both."""
    theirs = torchvision_model(
        version,
        short_side,
        rpn_batch_size_per_image=EVERYTHING,
        box_batch_size_per_image=EVERYTHING,
        box_positive_fraction=0.5,
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
