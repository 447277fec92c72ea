"""Localisation of the class of an image: a per-class RPN on a classifier's trunk (He et al., 2016, appendix C).

At each position of the trunk's last map stand A anchors; for each of them and each class there are a binary logistic
regression, "is an object of this class", and a box regressor. The paper leaves open, and here is chosen:

- a 3x3 convolution precedes the two sibling layers, as in the RPN that the paper refers to;
- positive anchors have an IoU of at least 0.7 with an object, or the highest of all; negative ones less than 0.3;
- a sampled anchor trains all K logistic regressions (of a positive one the object's class is 1, the others 0; of a
  negative one all are 0), so that their scores can rank classes too; the regressors train on their own class alone;
- the losses are sums over classes and coordinates, averaged over the sampled anchors, in equal weight;
- the logistic regressions begin at a probability of 0.01 (Lin et al., 2017, section 4.1): with a thousand of them at
  0.5 the first steps would only unlearn that;
- a class is where its best-scored anchor is; its box is that anchor's, regressed, cut at the image's border.

Shapes: N images, K classes, A anchors of an image, C hidden channels, S sampled anchors, T classes asked for; h and w
height and width of the map.
"""

from dataclasses import replace
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detres.backbones.interface import Backbone
from detres.detector.anchors import AnchorGenerator
from detres.detector.box_coder import BoxCoder
from detres.detector.localizer_head import LocalizerHead
from detres.detector.losses import BoxLoss
from detres.detector.target_assignment import assign, sample
from detres.layers.inference import OptimizableForInference
from detres.layers.pixels import PixelNormalizer
from detres.structures import Detections, GroundTruth, ImageBatch
from detres.structures.boxes import clip_boxes
from detres.structures.processes import batch_count

_SAMPLING_KEY = 0x4C4F43  # keeps this random choice apart from others with the same seeds


class Response(NamedTuple):
    """What the network makes of a batch: how likely each class is, and what its box is computed from.

    scores      (N, K) probability of each class at its best anchor
    anchors     (N, K) int64, that anchor, of all of the map
    hidden      (N, h w, C) what the regressors see
    references  (A, 4) the anchors, in pixels of what the network looked at
    offsets_xy  (N, 2) where that lies in the images: (0, 0), or the corner of the central crop
    """

    scores: Tensor
    anchors: Tensor
    hidden: Tensor
    references: Tensor
    offsets_xy: Tensor


class Scored(Protocol):
    """Something with the scores (N, K) of the classes in the images of a batch."""

    @property
    def scores(self) -> Tensor: ...


class Localizer(OptimizableForInference):
    """Normalised pixels -> last map of the backbone -> a box for each class asked for.

    backbone    its last feature map (the one of the largest stride) is used
    anchors     with one list of sizes
    channels    C
    batch_size  S, anchors sampled per image, of which at most `positive_fraction` are positive
    num_boxes   of how many classes `predict` gives the boxes, the most likely first
    test_crop   side of the central crop that `predict` looks at, as VGG's and the paper's single-crop tests do;
                None: the whole image, densely. In either case boxes are in pixels of the whole image

    The other settings are those of detres.config.localizer.LocalizerSettings.
    """

    def __init__(
        self,
        pixels: PixelNormalizer,
        backbone: Backbone,
        anchors: AnchorGenerator,
        num_classes: int,
        *,
        channels: int = 512,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        batch_size: int = 8,
        positive_fraction: float = 0.5,
        box_loss: str = "l1",
        smooth_l1_beta: float = 0.0,
        box_loss_weight: float = 1.0,
        num_boxes: int = 5,
        test_crop: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"a localizer needs at least one class, got num_classes={num_classes}")
        if len(anchors.sizes) != 1:
            raise ValueError(f"a localizer works on one map, expected one list of anchor sizes, got {anchors.sizes}")
        self.pixels, self.backbone, self.anchors = pixels, cast(nn.Module, backbone), anchors
        self.feature_name, spec = list(backbone.feature_specs.items())[-1]
        self.stride = spec.stride
        self.head = LocalizerHead(spec.channels, anchors.num_anchors_per_cell, num_classes, channels)
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.batch_size, self.positive_fraction = batch_size, positive_fraction
        self.coder = BoxCoder()
        self.box_loss = BoxLoss(self.coder, box_loss, smooth_l1_beta)
        self.box_loss_weight, self.num_boxes, self.test_crop = box_loss_weight, num_boxes, test_crop

    @property
    def num_classes(self) -> int:
        """K."""
        return self.head.num_classes

    def forward(self, images: ImageBatch, targets: GroundTruth) -> dict[str, Tensor]:
        """The two losses, scalars: loss_loc_class, loss_loc_box. Images without objects have negative anchors only."""
        self.check_trainable()
        hidden, anchors = self._look(images)
        found = assign(anchors, targets, self.positive_iou, self.negative_iou, low_quality=True)
        seeds = images.sampling_seeds ^ _SAMPLING_KEY
        chosen = sample(found.labels, seeds, self.batch_size, self.positive_fraction)
        labels, boxes = _matched(targets, found.matches.gather(1, chosen.index))
        position, anchor = chosen.index // self.head.num_anchors, chosen.index % self.head.num_anchors
        cells = _rows(hidden, position)
        logits = _of_anchor(self.head.logits(cells), anchor)
        wanted = F.one_hot(labels, self.num_classes) * chosen.positive[:, :, None]
        losses = F.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="none").sum(dim=2)
        deltas = self.head.deltas(cells, anchor, labels)
        box = self.box_loss(deltas, anchors[chosen.index], boxes, chosen.positive.float())
        count = batch_count(chosen.valid.sum())
        return {
            "loss_loc_class": (losses * chosen.valid).sum() / count,
            "loss_loc_box": self.box_loss_weight * box / count,
        }

    @torch.no_grad()
    def predict(self, images: ImageBatch, labels: Tensor | None = None) -> list[Detections]:
        """One box for each of the `num_boxes` most likely classes, or for each of the classes `labels` (N, T) int64.

        Boxes are in pixels of the images as given; they come by decreasing score, or in the order of `labels`. Call in
        eval mode.
        """
        response = self.respond(images)
        return self.locate(response, self.most_likely(response) if labels is None else labels, images)

    @torch.no_grad()
    def respond(self, images: ImageBatch, *, whole: bool = False) -> Response:
        """Look at a batch once, for any number of calls of `locate`; `whole`: at all of it, whatever `test_crop`."""
        seen, offsets = images, torch.zeros_like(images.sizes_hw)
        if self.test_crop is not None and not whole:
            seen, offsets = central_crops(images, self.test_crop)
        hidden, anchors = self._look(seen)
        logits = self.head.logits(hidden).flatten(1, 2)
        inside = _cells_inside(anchors, self.anchors, seen.sizes_hw)
        scores, best = logits.masked_fill(~inside[:, :, None], -torch.inf).max(dim=1)
        return Response(scores.sigmoid(), best, hidden, anchors, offsets)

    def most_likely(self, response: Scored) -> Tensor:
        """The labels (N, T) of the `num_boxes` most likely classes, the best first, equal ones in order."""
        return response.scores.argsort(dim=1, descending=True, stable=True)[:, : self.num_boxes]

    @torch.no_grad()
    def locate(self, response: Response, labels: Tensor, images: ImageBatch) -> list[Detections]:
        """The box of each of the classes `labels` (N, T) in the images of a response, in that order."""
        best = response.anchors.gather(1, labels)
        cells = _rows(response.hidden, best // self.head.num_anchors)
        deltas = self.head.deltas(cells, best % self.head.num_anchors, labels)
        boxes = self.coder.decode(deltas, response.references[best])
        boxes = clip_boxes(boxes + response.offsets_xy.repeat(1, 2)[:, None], images.sizes_hw)
        scores = response.scores.gather(1, labels)
        return [Detections(*parts) for parts in zip(boxes, scores, labels, strict=True)]

    def _look(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Hidden values (N, h w, C) of a batch, and the anchors (A, 4) on their positions."""
        features = self.features(images)[self.feature_name]
        height, width = features.shape[-2:]
        padded_hw = (images.pixels.shape[-2], images.pixels.shape[-1])
        anchors = self.anchors([(height, width)], [self.stride], padded_hw, features.device)[0]
        return self.head.hidden(features), anchors


def central_crops(images: ImageBatch, size: int) -> tuple[ImageBatch, Tensor]:
    """The central `size` x `size` pixels of every image, and their corners x, y (N, 2) in it.

    The centre is the one of the step center_crop; what is smaller stays as it is.
    """
    sides = images.sizes_hw.clamp(max=size)
    corners = (images.sizes_hw - sides) // 2
    windows = [
        pixels[:, top : top + height, left : left + width]
        for pixels, (top, left), (height, width) in zip(images.pixels, corners.tolist(), sides.tolist(), strict=True)
    ]
    cut = ImageBatch.from_images(windows, size_divisibility=1).to(images.pixels.device)
    return replace(cut, sampling_seeds=images.sampling_seeds), corners.flip(1)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """The rows `index` (N, S) of values (N, R, C): (N, S, C)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


def _of_anchor(values: Tensor, anchor: Tensor) -> Tensor:
    """Of values (N, S, anchors of a cell, K) those of one anchor each (N, S): (N, S, K)."""
    return values.gather(2, anchor[:, :, None, None].expand(-1, -1, 1, values.shape[3])).squeeze(2)


def _matched(targets: GroundTruth, matches: Tensor) -> tuple[Tensor, Tensor]:
    """Label (N, S) and box (N, S, 4) of every match (N, S); zeros when the batch has no objects at all."""
    if targets.boxes_xyxy.shape[1] == 0:
        return torch.zeros_like(matches), targets.boxes_xyxy.new_zeros(*matches.shape, 4)
    return targets.labels.gather(1, matches), _rows(targets.boxes_xyxy, matches)


def _cells_inside(anchors: Tensor, generator: AnchorGenerator, sizes_hw: Tensor) -> Tensor:
    """Which anchors (A, 4) stand on a cell that begins inside the image, not in its padding: (N, A) bool."""
    own = generator.cell_anchors(0, anchors.device)
    corners = (anchors.unflatten(0, (-1, len(own)))[:, :, :2] - own[:, :2]).round()  # whole pixels: the cells' corners
    return (corners.flatten(0, 1)[None] < sizes_hw.flip(1)[:, None]).all(dim=2)
