"""The region proposal network (Ren et al., 2015).

Shapes: N images, L feature levels, A anchors of all levels (A_l of one), k anchors of a cell, S sampled anchors, G
ground-truth boxes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detres.backbones.interface import FeatureSpec
from detres.detector.anchors import AnchorGenerator
from detres.detector.box_coder import BoxCoder
from detres.detector.losses import BoxLoss
from detres.detector.target_assignment import assign, sample
from detres.layers.convolution import convolve_then
from detres.layers.nms import survivors
from detres.layers.patches import cut_patches
from detres.layers.winograd import WinogradConv2d
from detres.structures import GroundTruth, ImageBatch, Proposals
from detres.structures.boxes import clip_boxes
from detres.structures.processes import batch_count

_SAMPLING_KEY = 0x52504E  # keeps the RPN's random choice apart from the RoI heads'


class RPNHead(nn.Module):
    """3x3 convolutions shared by all levels, then objectness and four deltas for every anchor of a cell."""

    def __init__(self, in_channels: int, num_anchors: int, *, convs: int = 1, channels: int | None = None) -> None:
        super().__init__()
        width = channels or in_channels
        self.conv = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(in_channels if i == 0 else width, width, 3, padding=1), nn.ReLU(inplace=True))
                for i in range(convs)
            )
        )
        self.cls_logits = nn.Conv2d(width, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(width, num_anchors * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level: objectness logits (N, A_l) and deltas (N, A_l, 4), in the anchors' order, float32."""
        logits, deltas = [], []
        k = self.cls_logits.out_channels
        for feature in features:
            outputs = self._outputs(feature).permute(0, 2, 3, 1)
            logits.append(outputs[..., :k].flatten(1).float())
            deltas.append(outputs[..., k:].reshape(len(outputs), -1, 4).float())  # channel 4a + coordinate
        return logits, deltas

    def _outputs(self, feature: Tensor) -> Tensor:
        """A feature map (N, C, H, W) -> logits and deltas (N, k + 4k, H, W)."""
        *before, (last, relu) = cast(Iterable[nn.Sequential], self.conv)
        if not isinstance(last, WinogradConv2d):
            return self._predict(self.conv(feature))
        for layer in before:
            feature = layer(feature)
        return convolve_then(last, feature, lambda convolved: self._predict(relu(convolved)))

    def _predict(self, hidden: Tensor) -> Tensor:
        return torch.cat([self.cls_logits(hidden), self.bbox_pred(hidden)], dim=1)

    def at(self, features: Sequence[Tensor], cells: Tensor) -> tuple[Tensor, Tensor]:
        """What forward gives for the anchors of some cells: logits (N, S, k) and deltas (N, S, k, 4), float32.

        cells (N, S) count through all levels, row by row. Only the surroundings of these cells are computed, and only
        there is anything to do in the backward pass: a few hundred cells of tens of thousands.
        """
        hidden, inside = cut_patches(features, cells.flatten(0, 1), cells.shape[1], radius=len(self.conv))
        for layer in self.conv:
            conv = cast(nn.Conv2d, cast(nn.Sequential, layer)[0])
            # Matrix products: on thousands of windows of 3 x 3 cells, convolutions are ten times as slow on a CPU.
            windows = hidden.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3).flatten(3)
            hidden = F.relu_(F.linear(windows, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias))
            inside = inside[:, 1:-1, 1:-1]
            hidden = hidden * inside if inside.shape[1] > 1 else hidden  # beyond the map the next one reads zeros
        hidden = hidden.flatten(1).unflatten(0, cells.shape)
        logits, deltas = (
            F.linear(hidden, _as_matrix(c.weight), c.bias).float() for c in (self.cls_logits, self.bbox_pred)
        )
        return logits, deltas.unflatten(2, (-1, 4))


def _as_matrix(weight: Tensor) -> Tensor:
    """The weight (K, C, 1, 1) of a 1x1 convolution as (K, C).

    In channels-last memory by a detour that gives the gradient the strides of the weight: they mean nothing where a
    side is 1, but DistributedDataParallel warns of others.
    """
    return weight.flatten(1) if weight.stride(3) == 1 else weight.permute(0, 2, 3, 1).flatten(1)


class RPN(nn.Module):
    """Proposals from features, and the two losses that train them.

    specs: the feature levels it works on. `pre_nms_top_n` (per level) and `post_nms_top_n` (per image) are pairs
    (training, test). The other settings are those of detres.config.model.RPNSettings.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        anchors: AnchorGenerator,
        *,
        convs: int = 1,
        channels: int | None = None,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        batch_size: int = 256,
        positive_fraction: float = 0.5,
        box_loss: str = "l1",
        smooth_l1_beta: float = 0.0,
        box_loss_weight: float = 1.0,
        normalize_by: str = "batch_size",
        straddle_threshold: float = -1.0,
        pre_nms_top_n: tuple[int, int] = (2000, 1000),
        post_nms_top_n: tuple[int, int] = (1000, 1000),
        nms_iou: float = 0.7,
        min_size: float = 0.0,
        score_threshold: float = 0.0,
        symmetric_clamp: bool = False,
    ) -> None:
        super().__init__()
        widths = {spec.channels for spec in specs.values()}
        if len(widths) != 1:
            raise ValueError(f"the RPN needs features of one width, got {dict(specs)}; add a neck")
        self.names, self.strides = list(specs), [spec.stride for spec in specs.values()]
        self.anchors = anchors
        self.head = RPNHead(widths.pop(), anchors.num_anchors_per_cell, convs=convs, channels=channels)
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.batch_size, self.positive_fraction = batch_size, positive_fraction
        self.coder = BoxCoder(symmetric_clamp=symmetric_clamp)
        self.box_loss = BoxLoss(self.coder, box_loss, smooth_l1_beta)
        self.box_loss_weight, self.normalize_by = box_loss_weight, normalize_by
        self.straddle_threshold = straddle_threshold
        self.pre_nms_top_n, self.post_nms_top_n = pre_nms_top_n, post_nms_top_n
        self.nms_iou, self.min_size, self.score_threshold = nms_iou, min_size, score_threshold

    def forward(
        self, images: ImageBatch, features: Mapping[str, Tensor], targets: GroundTruth | None = None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals, and with `targets` the losses (without: none)."""
        maps = [features[name] for name in self.names]
        with torch.no_grad():  # the losses need a few hundred anchors of these: they compute those anew
            logits, deltas = self.head(maps)
        sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
        padded_hw = (images.pixels.shape[-2], images.pixels.shape[-1])
        anchors = self.anchors(sizes, self.strides, padded_hw, maps[0].device)
        proposals = self.propose(logits, deltas, anchors, images.sizes_hw)
        return proposals, {} if targets is None else self.losses(maps, torch.cat(anchors), images, targets)

    def losses(
        self, maps: Sequence[Tensor], anchors: Tensor, images: ImageBatch, targets: GroundTruth
    ) -> dict[str, Tensor]:
        """Objectness and box loss of a sample of the anchors (A, 4), which lie on the cells of the maps."""
        labels, matches = self._assign(anchors, images, targets)
        chosen = sample(labels, images.sampling_seeds ^ _SAMPLING_KEY, self.batch_size, self.positive_fraction)
        logits, deltas = self._outputs_of(maps, chosen.index)
        sampled = self.normalize_by == "sampled"
        normaliser = batch_count(chosen.valid.sum()) if sampled else self.batch_size * len(images)
        objectness = F.binary_cross_entropy_with_logits(
            logits, chosen.positive.float(), weight=chosen.valid.float(), reduction="sum"
        )
        matched_boxes = _matched_boxes(targets, matches.gather(1, chosen.index))
        box = self.box_loss(deltas, anchors[chosen.index], matched_boxes, chosen.positive.float())
        return {
            "loss_rpn_objectness": objectness / normaliser,
            "loss_rpn_box": self.box_loss_weight * box / normaliser,
        }

    def _outputs_of(self, maps: Sequence[Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, S) and deltas (N, S, 4) of single anchors (N, S), with gradients."""
        per_cell = self.anchors.num_anchors_per_cell
        logits, deltas = self.head.at(maps, torch.div(index, per_cell, rounding_mode="floor"))
        which = (index % per_cell)[:, :, None]
        chosen = deltas.gather(2, which[..., None].expand(-1, -1, -1, 4))
        return logits.gather(2, which).squeeze(2), chosen.squeeze(2)

    def _assign(self, anchors: Tensor, images: ImageBatch, targets: GroundTruth) -> tuple[Tensor, Tensor]:
        """Labels and matches (N, A) of the anchors."""
        assignment = assign(anchors, targets, self.positive_iou, self.negative_iou, low_quality=True)
        labels = assignment.labels
        if self.straddle_threshold >= 0:
            limit = images.sizes_hw.flip(1).repeat(1, 2)[:, None, 2:] + self.straddle_threshold
            inside = (anchors[:, :2] >= -self.straddle_threshold).all(-1) & (anchors[:, 2:] <= limit).all(-1)
            labels = labels.masked_fill(~inside, -1)
        return labels, assignment.matches

    @torch.no_grad()
    def propose(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], sizes_hw: Tensor
    ) -> Proposals:
        """Regions left by NMS within each level. logits L x (N, A_l), deltas L x (N, A_l, 4), sizes_hw (N, 2)."""
        deltas_of, anchors_of, scores = [], [], []
        for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
            count = min(self.pre_nms_top_n[0 if self.training else 1], level_logits.shape[1])
            best, index = level_logits.topk(count, dim=1)
            deltas_of.append(level_deltas.gather(1, index[:, :, None].expand(-1, -1, 4)))
            anchors_of.append(level_anchors[index])
            scores.append(best)
        boxes = self.coder.decode(torch.cat(deltas_of, 1), torch.cat(anchors_of, 1))
        level = torch.cat([torch.full((s.shape[1],), i, device=s.device) for i, s in enumerate(scores)])
        return self.select(boxes, torch.cat(scores, 1), level, sizes_hw)

    def select(self, boxes: Tensor, logits: Tensor, level: Tensor, sizes_hw: Tensor) -> Proposals:
        """Clip, drop the empty and the non-finite, NMS per level, keep the best. boxes (N, M, 4), logits (N, M)."""
        finite = torch.isfinite(boxes).all(-1) & torch.isfinite(logits)
        boxes = clip_boxes(boxes, sizes_hw)
        size = boxes[..., 2:] - boxes[..., :2]
        usable = finite & (size > self.min_size).all(-1)
        if self.score_threshold > 0:
            usable &= logits.sigmoid() >= self.score_threshold
        kept = survivors(boxes, logits, level.expand_as(logits), usable, self.nms_iou)
        most = min(self.post_nms_top_n[0 if self.training else 1], boxes.shape[1])
        out_logits, order = logits.masked_fill(~kept, -torch.inf).sort(dim=1, descending=True, stable=True)
        out_logits, order = out_logits[:, :most], order[:, :most]
        valid = out_logits > -torch.inf
        out_boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4)).masked_fill(~valid[:, :, None], 0.0)
        return Proposals(out_boxes, out_logits, valid)


def _matched_boxes(targets: GroundTruth, matches: Tensor) -> Tensor:
    """The ground-truth box (N, S, 4) of every match (N, S); zeros when the batch has no objects at all."""
    if targets.boxes_xyxy.shape[1] == 0:
        return targets.boxes_xyxy.new_zeros(*matches.shape, 4)
    return targets.boxes_xyxy.gather(1, matches[:, :, None].expand(-1, -1, 4))
