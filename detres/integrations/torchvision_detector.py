"""to_torchvision: a detres Faster R-CNN as torchvision's, part by part.

Shapes: N images, R regions of an image, K classes.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import Conv2dNormActivation
from torchvision.ops.poolers import initLevelMapper

from detres.integrations.torchvision_backbone import AdaptedBackbone
from detres.layers.roi_pool import RoIPooler

_SMALLEST_DETECTION = 0.01  # torchvision drops detections with a shorter side, whatever it is told


def to_torchvision(detector: Any, *, min_size: int = 800, max_size: int = 1333) -> TorchvisionFasterRCNN:
    """torchvision's FasterRCNN with the weights of a detres one: it finds the same boxes, with the same scores.

    detector            a detres Faster R-CNN, or the detres.Detector that holds one; it is copied
    min_size, max_size  torchvision resizes inside the model: the short side to min_size, the long to max_size at most

    torchvision takes RGB images in 0..1, calls label k here k + 1, and drops detections with a side under 0.01 pixels.
    Training goes by torchvision's losses. Raises TypeError for another network, and ValueError naming the setting
    that torchvision's FasterRCNN has no counterpart of.
    """
    network = getattr(detector, "network", detector)
    if not all(hasattr(network, part) for part in ("pixels", "backbone", "rpn", "roi_heads")):
        raise TypeError(f"to_torchvision: got a {type(network).__name__}, expected a detres FasterRCNN or Detector")
    _refuse_what_it_lacks(network)
    pixels, rpn, roi_heads = network.pixels, network.rpn, network.roi_heads
    mean, std = ((values.flatten() / 255).tolist() for values in (pixels.mean, pixels.std))
    is_bgr = pixels.channel_order == "bgr"
    backbone = AdaptedBackbone(copy.deepcopy(network.backbone))
    if is_bgr:
        _flip_first_conv(backbone)
    names = dict(zip(network.backbone.feature_specs, backbone.feature_names, strict=True))
    model = TorchvisionFasterRCNN(
        backbone,
        min_size=min_size,
        max_size=max_size,
        size_divisible=max(pixels.size_divisibility, 1),
        image_mean=mean[::-1] if is_bgr else mean,
        image_std=std[::-1] if is_bgr else std,
        **_rpn_options(rpn),
        box_roi_pool=_pool(roi_heads.pooler, [names[name] for name in roi_heads.names]),
        box_head=copy.deepcopy(roi_heads.box_head),
        box_predictor=_predictor(roi_heads.box_predictor),
        **_box_options(roi_heads),
    )
    model.rpn.min_size = float(torch.nextafter(torch.tensor(float(rpn.min_size)), torch.tensor(torch.inf)))  # > to >=
    model.rpn.box_coder.bbox_xform_clip = rpn.coder.max_log_scale
    model.roi_heads.box_coder.bbox_xform_clip = roi_heads.coder.max_log_scale
    return model.to(pixels.mean.device).train(network.training)


def _refuse_what_it_lacks(network: Any) -> None:
    rpn, roi_heads = network.rpn, network.roi_heads
    checks = [
        ("pixels.per_pixel_mean", network.pixels.mean_image is None, "a mean for each channel (null)"),
        ("rpn.symmetric_clamp", not rpn.coder.symmetric_clamp, "false"),
        ("roi_heads.symmetric_clamp", not roi_heads.coder.symmetric_clamp, "false"),
        ("roi_heads.cascade", not hasattr(roi_heads, "earlier_stages"), "null"),
        ("roi_heads.global_context", not roi_heads.global_context, "false"),
        ("roi_heads.class_agnostic", not roi_heads.box_predictor.class_agnostic, "false"),
        ("roi_heads.nms", roi_heads.nms == "hard", "hard"),
        ("roi_heads.min_size", roi_heads.min_size <= _SMALLEST_DETECTION, f"{_SMALLEST_DETECTION} or less"),
    ]
    for key, expressible, expected in checks:
        if not expressible:
            raise ValueError(f"model.{key}: torchvision's FasterRCNN has no such option; expected {expected}")


def _flip_first_conv(backbone: nn.Module) -> None:
    """Let a network for BGR pixels take RGB ones."""
    first = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.in_channels != 3:
        raise ValueError("model.pixels.channel_order: got bgr, expected rgb for a backbone without a first convolution")
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1))


def _rpn_options(rpn: Any) -> dict[str, Any]:
    return {
        "rpn_anchor_generator": _anchors(rpn),
        "rpn_head": _rpn_head(rpn.head),
        "rpn_pre_nms_top_n_train": rpn.pre_nms_top_n[0],
        "rpn_pre_nms_top_n_test": rpn.pre_nms_top_n[1],
        "rpn_post_nms_top_n_train": rpn.post_nms_top_n[0],
        "rpn_post_nms_top_n_test": rpn.post_nms_top_n[1],
        "rpn_nms_thresh": rpn.nms_iou,
        "rpn_fg_iou_thresh": rpn.positive_iou,
        "rpn_bg_iou_thresh": rpn.negative_iou,
        "rpn_batch_size_per_image": rpn.batch_size,
        "rpn_positive_fraction": rpn.positive_fraction,
        "rpn_score_thresh": rpn.score_threshold,
    }


def _box_options(roi_heads: Any) -> dict[str, Any]:
    return {
        "box_score_thresh": roi_heads.score_threshold,
        "box_nms_thresh": roi_heads.nms_iou,
        "box_detections_per_img": roi_heads.detections_per_image,
        "box_fg_iou_thresh": roi_heads.positive_iou,
        "box_bg_iou_thresh": roi_heads.negative_iou,
        "box_batch_size_per_image": roi_heads.batch_size,
        "box_positive_fraction": roi_heads.positive_fraction,
        "bbox_reg_weights": roi_heads.coder.weights,
    }


class _Anchors(AnchorGenerator):
    """torchvision's generator with given cell anchors (L x (anchors per cell, 4)) and strides (None: from shapes)."""

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[Sequence[float]],
        cell_anchors: Sequence[Tensor],
        strides: Sequence[int] | None,
    ) -> None:
        super().__init__(sizes, aspect_ratios)
        self.cell_anchors, self.strides = list(cell_anchors), strides

    def grid_anchors(self, grid_sizes: Sequence[Sequence[int]], strides: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        steps = strides if self.strides is None else [(stride, stride) for stride in self.strides]
        return super().grid_anchors(grid_sizes, steps)


def _anchors(rpn: Any) -> AnchorGenerator:
    ours, levels = rpn.anchors, range(len(rpn.strides))
    sizes = tuple(tuple(ours.sizes[level if len(ours.sizes) > 1 else 0]) for level in levels)
    ratios = (tuple(ours.aspect_ratios),) * len(sizes)
    if ours.rounded and ours.order == "ratio_major" and ours.stride == "from_shape":
        return AnchorGenerator(sizes, ratios)
    strides = None if ours.stride == "from_shape" else list(rpn.strides)
    return _Anchors(sizes, ratios, [ours.cell_anchors(level) for level in levels], strides)


def _rpn_head(ours: Any) -> RPNHead:
    in_channels, width = ours.conv[0][0].in_channels, ours.cls_logits.in_channels
    head = RPNHead(width, ours.cls_logits.out_channels, conv_depth=len(ours.conv))
    if in_channels != width:
        head.conv[0] = Conv2dNormActivation(in_channels, width, kernel_size=3, norm_layer=None)
    head.load_state_dict(ours.state_dict())
    return head


class _Pool(MultiScaleRoIAlign):
    """Pooling as in detres, where torchvision's own differs: aligned RoIAlign, RoIPool."""

    def __init__(self, pooler: RoIPooler, names: Sequence[str]) -> None:
        super().__init__(list(names), pooler.output_size, pooler.sampling_ratio)
        self.pooler = pooler

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps by name and boxes N x (R, 4) -> regions of all images (sum of R, C, S, S)."""
        padded = pad_sequence(boxes, batch_first=True)
        counts = torch.tensor([len(b) for b in boxes], device=padded.device)
        valid = torch.arange(padded.shape[1], device=padded.device) < counts[:, None]
        return self.pooler([x[name] for name in self.featmap_names], padded)[valid.flatten()]


def _pool(ours: RoIPooler, names: Sequence[str]) -> MultiScaleRoIAlign:
    if ours.aligned or ours.method != "roi_align":
        return _Pool(copy.deepcopy(ours), names)
    canonical = {"canonical_scale": ours.canonical_size, "canonical_level": ours.canonical_level}
    pool = MultiScaleRoIAlign(list(names), ours.output_size, ours.sampling_ratio, **canonical)
    # Left alone, torchvision guesses the strides from the sizes of the first images, wrongly if they are very small.
    pool.scales = [1.0 / stride for stride in ours.strides]
    pool.map_levels = initLevelMapper(ours.min_level, ours.max_level, **canonical)
    return pool


def _predictor(ours: Any) -> FastRCNNPredictor:
    """The two layers with the background in row 0, where it has four unused deltas."""
    theirs = FastRCNNPredictor(ours.cls_score.in_features, ours.num_classes + 1)
    state = {name: tensor.detach() for name, tensor in ours.state_dict().items()}
    if ours.background == "last":
        for name, tensor in state.items():
            unused = tensor.new_zeros(4, *tensor.shape[1:])
            state[name] = tensor.roll(1, 0) if name.startswith("cls_score") else torch.cat([unused, tensor])
    theirs.load_state_dict(state)
    return theirs
