"""Small detectors of the shipped forms, by configuration: what one line of settings makes of them."""

from typing import cast

from torch import Tensor

from detres import wiring
from detres.config import load_config
from detres.config.model import FasterRCNNSettings
from detres.detector import FasterRCNN
from detres.structures import GroundTruth, ImageBatch, Proposals

FORMS = {
    "fpn": ("coco_r50.yaml", ["model.neck.channels=32", "model.roi_heads.box_head.channels=32"]),
    "c4": ("coco_r50_c4.yaml", ["model.roi_heads.pool.output_size=4"]),
    "dc5": ("coco_r50_dc5.yaml", ["model.roi_heads.box_head.channels=32"]),
}
CONV_FC = "model.roi_heads.box_head={type: conv_fc, num_convs: 1, conv_channels: 16, channels: 32}"
_SMALL = [
    "model.backbone={type: resnet, depth: 18, norm: batch, frozen_stages: 0, weights: null}",
    "model.rpn.post_nms_top_n_train=12",
    "model.rpn.post_nms_top_n_test=10",
    "model.roi_heads.sampling.batch_size=8",
    "model.roi_heads.score_threshold=0.0",
]


def build(form: str, *overrides: str, num_classes: int = 3) -> FasterRCNN:
    """A ResNet-18 detector in one of the FORMS, with `overrides` on top."""
    name, narrow = FORMS[form]
    parts = {"fpn": "[c2, c3, c4, c5]", "c4": "[c4]", "dc5": "[c5]"}[form]
    form_settings = [f"model.backbone.out_features={parts}", f"model.backbone.dilated_c5={str(form == 'dc5').lower()}"]
    narrow = [] if any("box_head=" in override for override in overrides) else narrow
    settings = load_config(name, [*_SMALL, *form_settings, *narrow, *overrides]).config.model
    return wiring.build_detector(cast(FasterRCNNSettings, settings), num_classes)


def step(model: FasterRCNN, images: ImageBatch, targets: GroundTruth) -> dict[str, Tensor]:
    """The losses of a training step after its backward pass."""
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    return losses


def proposals_of(boxes: Tensor) -> Proposals:
    """All boxes (N, R, 4) as proposals."""
    return Proposals(boxes, boxes[..., 0] * 0, boxes[..., 0] == boxes[..., 0])
