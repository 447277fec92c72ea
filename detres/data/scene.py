"""An image with its boxes, and how both are resized and cropped.

Shapes: H, W height and width, G boxes. Images are (H, W, 3) uint8, boxes (G, 4) float32 xyxy in pixels.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate


class Scene(NamedTuple):
    """An image, its boxes, and for each box the row of the original annotation that it came from."""

    image: np.ndarray
    boxes_xyxy: np.ndarray
    rows: np.ndarray


def shortest_edge_size(size_hw: Sequence[int], short: int, longest: int | None) -> tuple[int, int]:
    """Height and width with the shorter side `short`, unless the longer one would pass `longest` (detectron2's)."""
    height, width = size_hw
    scale = short / min(height, width)
    new_height, new_width = (short, scale * width) if height < width else (scale * height, short)
    if longest is not None and max(new_height, new_width) > longest:
        shrink = longest / max(new_height, new_width)
        new_height, new_width = new_height * shrink, new_width * shrink
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize_image(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """An image (H, W, 3) uint8 resized bilinearly, antialiased where it shrinks; within 1 of Pillow's BILINEAR."""
    height, width = image.shape[:2]
    if (height, width) == tuple(size_hw):
        return image
    if size_hw[0] >= height and size_hw[1] >= width:
        import cv2  # several times as fast as the others, but it does not antialias

        return cv2.resize(np.ascontiguousarray(image), size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = interpolate(pixels, size=tuple(size_hw), mode="bilinear", antialias=True, align_corners=False)
    out: np.ndarray = resized[0].permute(1, 2, 0).numpy()
    return out


def resize_scene(scene: Scene, size_hw: tuple[int, int]) -> Scene:
    """The scene with its image resized to `size_hw`."""
    y, x = size_hw[0] / scene.image.shape[0], size_hw[1] / scene.image.shape[1]
    boxes = scene.boxes_xyxy * np.array([x, y, x, y], dtype=np.float32)
    return scene._replace(image=resize_image(scene.image, size_hw), boxes_xyxy=boxes)


def crop_scene(scene: Scene, top: int, left: int, height: int, width: int) -> Scene:
    """The window of the scene; boxes are cut at its borders, and those without any part in it are dropped."""
    window = scene.image[top : top + height, left : left + width]
    boxes = scene.boxes_xyxy - np.array([left, top, left, top], dtype=np.float32)
    return clip_and_filter(scene._replace(image=window, boxes_xyxy=boxes), 0.0)


def random_window(scene: Scene, height: int, width: int, rng: random.Random) -> Scene:
    """A window of `height` x `width` anywhere in the scene; what is smaller stays as it is."""
    full_height, full_width = scene.image.shape[:2]
    height, width = min(height, full_height), min(width, full_width)
    return crop_scene(scene, rng.randint(0, full_height - height), rng.randint(0, full_width - width), height, width)


def clip_and_filter(scene: Scene, min_size: float) -> Scene:
    """Boxes cut at the image's borders, without those that end empty or smaller than `min_size`."""
    if not len(scene.boxes_xyxy):
        return scene  # a third of the time of a 32 x 32 image
    height, width = scene.image.shape[:2]
    boxes = np.clip(scene.boxes_xyxy, 0, np.array([width, height, width, height], dtype=np.float32))
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides > 0).all(axis=1) & (sides >= min_size).all(axis=1)
    return scene._replace(boxes_xyxy=boxes[kept], rows=scene.rows[kept])
