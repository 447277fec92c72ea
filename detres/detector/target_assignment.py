"""Which anchors or proposals are objects, which are background, and which of them enter the loss.

Shapes: N images, B boxes (anchors or proposals) per image, G ground-truth boxes, S sampled boxes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detres.structures import GroundTruth
from detres.structures.boxes import pairwise_ioa, pairwise_iou
from detres.structures.random import keyed_uniform

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
CROWD_IOA = 0.5  # a box with more than this share inside a crowd is not background
MAX_IOU_ELEMENTS = 1 << 24  # pairs of boxes compared at once: bounds memory, never changes the result


@dataclass(frozen=True)
class Assignment:
    """labels (N, B) int64: 1 positive, 0 negative, -1 neither; matches (N, B) int64: the ground truth of best IoU."""

    labels: Tensor
    matches: Tensor


def match(iou: Tensor, positive_iou: float, negative_iou: float, low_quality: bool) -> Assignment:
    """Assign boxes by a matrix of IoUs (N, G, B).

    positive: IoU >= `positive_iou` with some object; negative: < `negative_iou` with all; neither in between.
    `low_quality` (RPN): the boxes of highest IoU for an object are positive too, however low it is. Without objects
    all are negative.
    """
    return _match([iou], torch.ones_like(iou[:, :, 0], dtype=torch.bool), positive_iou, negative_iou, low_quality)


def assign(
    boxes: Tensor, targets: GroundTruth, positive_iou: float, negative_iou: float, low_quality: bool
) -> Assignment:
    """Assign boxes (N, B, 4), or (B, 4) shared by all images, to the ground truth; see `match`.

    Boxes that are not positive and lie mostly in a crowd or ignored region are neither positive nor negative. Memory
    is bounded by MAX_IOU_ELEMENTS whatever G and B are: the IoU matrix is made in chunks of boxes.
    """
    num_images, num_objects = targets.valid.shape
    boxes = boxes.expand(num_images, -1, -1) if boxes.dim() == 2 else boxes
    chunks = boxes.split(max(1, MAX_IOU_ELEMENTS // max(1, num_images * num_objects)), dim=1)
    iou = _ChunkedIoU(chunks, targets)
    assignment = _match(list(iou) if len(chunks) == 1 else iou, targets.valid, positive_iou, negative_iou, low_quality)
    if targets.any_ignore and num_objects:
        to_ignore = _in_crowd(chunks, targets) & (assignment.labels == NEGATIVE)
        return Assignment(assignment.labels.masked_fill(to_ignore, IGNORED), assignment.matches)
    return assignment


class _ChunkedIoU:
    """IoU (N, G, b) of objects and one chunk of boxes after another, -1 for padding and crowds; made anew each time."""

    def __init__(self, chunks: Sequence[Tensor], targets: GroundTruth) -> None:
        self.chunks, self.targets = chunks, targets

    def __iter__(self) -> Iterator[Tensor]:
        absent = ~self.targets.valid[:, :, None]
        for chunk in self.chunks:
            yield pairwise_iou(self.targets.boxes_xyxy, chunk).masked_fill(absent, -1.0)


def _match(
    iou: Iterable[Tensor], valid: Tensor, positive_iou: float, negative_iou: float, low_quality: bool
) -> Assignment:
    """`match` over chunks of boxes that can be gone through twice; valid (N, G) says which rows are objects."""
    if valid.shape[1] == 0:
        labels = torch.cat([torch.full_like(chunk.sum(1), NEGATIVE, dtype=torch.int64) for chunk in iou], dim=1)
        return Assignment(labels, torch.zeros_like(labels))
    best = [chunk.max(dim=1) for chunk in iou]
    best_iou = torch.cat([b.values for b in best], dim=1).clamp(min=0)
    labels = torch.full_like(best_iou, IGNORED, dtype=torch.int64)
    labels = labels.masked_fill(best_iou < negative_iou, NEGATIVE).masked_fill(best_iou >= positive_iou, POSITIVE)
    if low_quality and best_iou.shape[1]:
        highest = torch.stack([chunk.amax(dim=2) for chunk in iou]).amax(dim=0)
        highest = highest.masked_fill(~valid, 2.0)[:, :, None]
        labels = labels.masked_fill(torch.cat([(chunk == highest).any(dim=1) for chunk in iou], dim=1), POSITIVE)
    return Assignment(labels, torch.cat([b.indices for b in best], dim=1))


def _in_crowd(chunks: Sequence[Tensor], targets: GroundTruth) -> Tensor:
    """Whether more than CROWD_IOA of a box (N, B) lies inside one ignored region."""
    inside = []
    for chunk in chunks:
        ioa = pairwise_ioa(chunk, targets.boxes_xyxy)
        inside.append((ioa.masked_fill(~targets.ignore[:, None, :], 0.0) > CROWD_IOA).any(dim=2))
    return torch.cat(inside, dim=1)


@dataclass(frozen=True)
class Sample:
    """The boxes that enter the loss: index (N, S) int64, positive (N, S) bool, valid (N, S) bool."""

    index: Tensor
    positive: Tensor
    valid: Tensor


def sample(labels: Tensor, seeds: Tensor, batch_size: int, positive_fraction: float) -> Sample:
    """Choose up to `batch_size` boxes per image, at most `positive_fraction` of them positive, the rest negative.

    labels (N, B) as in Assignment; seeds (N,) int64. Shapes are static (S = min(batch_size, B)), and the choice in an
    image depends on its seed and on how many boxes there are (so on the padding of its batch), not on the device or
    on the other images. The positives come first.
    """
    num_boxes = labels.shape[1]
    size = min(batch_size, num_boxes)
    most_positive = min(int(batch_size * positive_fraction), num_boxes)
    keys = keyed_uniform(seeds, num_boxes)
    positive_keys, positives = keys.masked_fill(labels != POSITIVE, 2.0).topk(most_positive, dim=1, largest=False)
    negative_keys, negatives = keys.masked_fill(labels != NEGATIVE, 2.0).topk(size, dim=1, largest=False)
    positive = positive_keys < 1.0
    room = batch_size - positive.sum(dim=1, keepdim=True)
    negative = (negative_keys < 1.0) & (torch.arange(size, device=labels.device) < room)
    index, valid = torch.cat([positives, negatives], dim=1), torch.cat([positive, negative], dim=1)
    front = torch.argsort(~valid, dim=1, stable=True)[:, :size]
    is_positive = torch.cat([positive, torch.zeros_like(negative)], dim=1)
    return Sample(index.gather(1, front), is_positive.gather(1, front), valid.gather(1, front))
