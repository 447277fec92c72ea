"""What a benchmark compares: torchvision's Faster R-CNN and ours with the same weights, and the input of both."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detres.config import load_config
from detres.config.model import FasterRCNNSettings
from detres.data.image_io import read_image
from detres.detector import FasterRCNN
from detres.structures import GroundTruth, ImageBatch
from detres.wiring import build_detector, data_root

NUM_CLASSES = 90  # torchvision's head for COCO has as many, and the background
_CONFIGS = {1: "coco_r50_torchvision.yaml", 2: "coco_r50_torchvision_v2.yaml"}
_BOXES_PER_IMAGE = 8
_GAINS = {"bbox_pred": 0.2, "cls_logits": 0.2, "cls_score": 0.3}
_BACKGROUND_BIAS = 5.0  # with these, several hundred pairs of region and class pass the score threshold


@dataclass(frozen=True)
class Twins:
    """torchvision's fasterrcnn_resnet50_fpn, or its _v2, and ours: every option alike, the same random weights."""

    theirs: Any
    ours: FasterRCNN

    def expect(self, size_hw: Sequence[int]) -> None:
        """Tell torchvision's, which resizes by itself, the size that the images have: they stay as they are."""
        self.theirs.transform.min_size, self.theirs.transform.max_size = (min(size_hw),), max(size_hw)


def make_twins(device: torch.device, num_proposals: tuple[int, int] = (2000, 1000), version: int = 1) -> Twins:
    """Both detectors of torchvision's `version`; at most `num_proposals` (training, test) of an image go on.

    Version 1 has frozen batch norms and a frozen stem and conv2_x, as the one with torchvision's published weights.
    """
    theirs = _torchvision_model(version, num_proposals)
    randomise(theirs)
    overrides = [
        "model.backbone.norm_eps=1e-5",
        f"model.rpn.post_nms_top_n_train={num_proposals[0]}",
        f"model.rpn.post_nms_top_n_test={num_proposals[1]}",
    ]
    settings = load_config(_CONFIGS[version], overrides).config.model
    assert isinstance(settings, FasterRCNNSettings)
    ours = build_detector(settings, NUM_CLASSES)
    ours.load_state_dict(theirs.state_dict())
    return Twins(theirs.to(device).eval(), ours.to(device).eval())


def _torchvision_model(version: int, num_proposals: tuple[int, int]) -> nn.Module:
    from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
    from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    counts = {"rpn_post_nms_top_n_train": num_proposals[0], "rpn_post_nms_top_n_test": num_proposals[1]}
    if version == 2:
        return fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1, **counts)
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)  # frozen as with weights: its default
    return TorchvisionFasterRCNN(backbone, num_classes=NUM_CLASSES + 1, **counts)


def randomise(model: nn.Module, seed: int = 7) -> None:
    """Random weights that behave: features neither vanish nor explode, and the heads find something."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 0:
            continue  # batch norm's step counter
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * noise.abs())
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * noise)
        elif tensor.dim() == 1:  # a norm; the last one of a residual branch is small, so that the sum does not grow
            tensor.copy_((0.25 if "bn3" in name else 1.0) * (1 + 0.1 * noise))
        else:
            gain = _GAINS.get(name.split(".")[-2], 1.0)
            tensor.copy_(gain * noise * (2 / tensor[0].numel()) ** 0.5)
        if name.endswith("cls_score.bias"):
            tensor[0] += _BACKGROUND_BIAS


@dataclass(frozen=True)
class Inputs:
    """The same images and boxes, in the form that each side takes.

    pictures  N x (3, H, W) uint8: what `ours` takes; `theirs` holds them as float in 0..1
    """

    source: str
    pictures: list[Tensor]
    theirs: list[Tensor]
    their_targets: list[dict[str, Tensor]]
    our_targets: GroundTruth

    def batch(self) -> ImageBatch:
        """The padded batch of `pictures`; torchvision makes its own inside the model, so it counts here too."""
        return ImageBatch.from_images(self.pictures).to(self.pictures[0].device)


def make_inputs(size_hw: Sequence[int], batch_size: int, image: str | None, device: torch.device) -> Inputs:
    """`batch_size` images of `size_hw`: of the file `image`, else COCO photos below DETRES_DATASETS, else generated."""
    height, width = size_hw
    files = [Path(image)] if image is not None else coco_photos(batch_size)
    source = ", ".join(file.name for file in files) if files else "generated"
    pictures = [_read(file, height, width) for file in files] or [_generate(height, width)]
    pictures = [pictures[i % len(pictures)].to(device) for i in range(batch_size)]
    generator = torch.Generator().manual_seed(5)
    boxes = [_random_boxes(height, width, generator) for _ in pictures]
    labels = [torch.randint(NUM_CLASSES, (len(b),), generator=generator) for b in boxes]
    return Inputs(
        source,
        pictures,
        [picture.float() / 255 for picture in pictures],
        [{"boxes": b.to(device), "labels": (n + 1).to(device)} for b, n in zip(boxes, labels, strict=True)],
        GroundTruth.from_lists(boxes, labels).to(device),
    )


def coco_photos(count: int) -> list[Path]:
    """The first photos of COCO's val2017, or of train2017, if DETRES_DATASETS has them."""
    if "DETRES_DATASETS" not in os.environ:
        return []
    for split in ("val2017", "train2017"):
        files = sorted((data_root() / "coco" / split).glob("*.jpg"))
        if files:
            return files[:count]
    return []


def _read(file: Path, height: int, width: int) -> Tensor:
    pixels = torch.from_numpy(read_image(file)).permute(2, 0, 1)
    return F.interpolate(pixels[None], size=(height, width), mode="bilinear", antialias=True)[0]


def _generate(height: int, width: int) -> Tensor:
    """A smooth random picture."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, max(2, height // 16), max(2, width // 16), generator=generator)
    picture = F.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    return (picture.clamp(0, 1) * 255).to(torch.uint8)


def _random_boxes(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes with sides of an eighth to a half of the image's."""
    size = torch.tensor([width, height])
    extent = size * (0.125 + 0.375 * torch.rand(_BOXES_PER_IMAGE, 2, generator=generator))
    corner = (size - extent) * torch.rand(_BOXES_PER_IMAGE, 2, generator=generator)
    return torch.cat([corner, corner + extent], dim=1)


def settings_of_theirs(model: Any) -> dict[str, Any]:
    """What decides how much work torchvision's model does, by the names of our settings."""
    return {
        "pre_nms_top_n": tuple(model.rpn._pre_nms_top_n[mode] for mode in ("training", "testing")),
        "post_nms_top_n": tuple(model.rpn._post_nms_top_n[mode] for mode in ("training", "testing")),
        "rpn nms_iou": model.rpn.nms_thresh,
        "rpn batch_size": model.rpn.fg_bg_sampler.batch_size_per_image,
        "rpn positive_fraction": model.rpn.fg_bg_sampler.positive_fraction,
        "roi_heads score_threshold": model.roi_heads.score_thresh,
        "roi_heads nms_iou": model.roi_heads.nms_thresh,
        "roi_heads detections_per_image": model.roi_heads.detections_per_img,
        "roi_heads batch_size": model.roi_heads.fg_bg_sampler.batch_size_per_image,
        "roi_heads positive_fraction": model.roi_heads.fg_bg_sampler.positive_fraction,
        **_parameters(model),
    }


def settings_of_ours(model: FasterRCNN) -> dict[str, Any]:
    """The same of ours."""
    rpn, roi_heads = model.rpn, model.roi_heads
    return {
        "pre_nms_top_n": tuple(rpn.pre_nms_top_n),
        "post_nms_top_n": tuple(rpn.post_nms_top_n),
        "rpn nms_iou": rpn.nms_iou,
        "rpn batch_size": rpn.batch_size,
        "rpn positive_fraction": rpn.positive_fraction,
        "roi_heads score_threshold": roi_heads.score_threshold,
        "roi_heads nms_iou": roi_heads.nms_iou,
        "roi_heads detections_per_image": roi_heads.detections_per_image,
        "roi_heads batch_size": roi_heads.batch_size,
        "roi_heads positive_fraction": roi_heads.positive_fraction,
        **_parameters(model),
    }


def _parameters(model: nn.Module) -> Mapping[str, int]:
    learn = [p.numel() for p in model.parameters() if p.requires_grad]
    return {"parameters": sum(p.numel() for p in model.parameters()), "parameters that learn": sum(learn)}
