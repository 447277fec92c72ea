"""Pure functions on boxes: tensors (..., 4) as x1, y1, x2, y2 in pixels, continuous (width = x2 - x1).

Shapes: A, B numbers of boxes; leading dimensions broadcast.
"""

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4), in square pixels; negative extents count as zero."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_intersection(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection areas (..., A, B) of every box of `boxes_a` (..., A, 4) with every one of `boxes_b` (..., B, 4)."""
    top_left = torch.maximum(boxes_a[..., :, None, :2], boxes_b[..., None, :, :2])
    bottom_right = torch.minimum(boxes_a[..., :, None, 2:], boxes_b[..., None, :, 2:])
    size = (bottom_right - top_left).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union (..., A, B); zero where both boxes are empty."""
    intersection = pairwise_intersection(boxes_a, boxes_b)
    union = box_area(boxes_a)[..., :, None] + box_area(boxes_b)[..., None, :] - intersection
    return torch.where(intersection > 0, intersection / union, torch.zeros_like(intersection))


def pairwise_ioa(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Share (..., A, B) of each box of `boxes_a` that lies inside each box of `boxes_b` (COCO's crowd overlap)."""
    intersection = pairwise_intersection(boxes_a, boxes_b)
    area = box_area(boxes_a)[..., :, None]
    return torch.where(intersection > 0, intersection / area, torch.zeros_like(intersection))


def clip_boxes(boxes: Tensor, sizes_hw: Tensor) -> Tensor:
    """Boxes (N, R, 4) or (R, 4) cut at the borders of their images; `sizes_hw` is (N, 2) or (2,)."""
    height, width = sizes_hw[..., 0], sizes_hw[..., 1]
    limit = torch.stack([width, height, width, height], dim=-1).to(boxes.dtype)
    if boxes.dim() == 3:
        limit = limit[:, None, :]
    return torch.minimum(boxes.clamp(min=0), limit)


def scale_boxes(boxes: Tensor, from_hw: tuple[float, float], to_hw: tuple[float, float]) -> Tensor:
    """Boxes (R, 4) of an image of size `from_hw` in the pixels of the same image resized to `to_hw`."""
    x, y = to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]
    return boxes * boxes.new_tensor([x, y, x, y])


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corner boxes (..., 4) as x, y, width, height."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) given as x, y, width, height, as corners."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)
