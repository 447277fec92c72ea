"""An image with its boxes, and how both are resized and cropped.

Shapes: H, W height and width, G boxes. Images are (H, W, 3) uint8, boxes (G, 4) float32 xyxy in pixels.
An image may come decoded at a part of its size, if the first step resizes it: boxes, windows and sizes are those of the
whole image all the same, and so are the sizes and boxes that result.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from detres.data.decoding import reduction_of


class Scene(NamedTuple):
    """An image, its boxes, and for each box the row of the original annotation that it came from.

    whole_hw  height and width of the whole image, where `image` is 1/2, 1/4 or 1/8 of it (detres.data.decoding)
    is_new    whether a step made `image`, so that the next may write to it
    """

    image: np.ndarray
    boxes_xyxy: np.ndarray
    rows: np.ndarray
    whole_hw: tuple[int, int] | None = None
    is_new: bool = False

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width that boxes count in."""
        return self.whole_hw or (self.image.shape[0], self.image.shape[1])


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
        return _enlarge(np.ascontiguousarray(image), size_hw)
    return _interpolate(image, size=tuple(size_hw))


def _enlarge(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    import cv2  # several times as fast as the others, but it does not antialias

    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR)


def _interpolate(image: np.ndarray, **target: Any) -> np.ndarray:
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = interpolate(pixels, mode="bilinear", antialias=True, align_corners=False, **target)
    out: np.ndarray = resized[0].permute(1, 2, 0).numpy()
    return out


def _resize_reduced(image: np.ndarray, whole_hw: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    """A whole image of `whole_hw`, of which `image` is a reduction, resized to `size_hw` (not larger than `image`).

    Where a last row or column lies in part outside the whole image, it must not shift the others: resizing goes by the
    exact factor, not by the sizes.
    """
    reduction = reduction_of(image.shape, whole_hw)
    if not any(side % reduction for side in whole_hw):
        return resize_image(image, size_hw)
    # A hair more, since what it makes of the sides is rounded down; what is then one too many is cut off.
    factors = tuple(new * reduction / side * (1 + 1e-9) for new, side in zip(size_hw, whole_hw, strict=True))
    return _interpolate(image, scale_factor=factors, recompute_scale_factor=False)[: size_hw[0], : size_hw[1]]


def resize_scene(scene: Scene, size_hw: tuple[int, int]) -> Scene:
    """The scene with its image resized to `size_hw`."""
    y, x = size_hw[0] / scene.size_hw[0], size_hw[1] / scene.size_hw[1]
    boxes = scene.boxes_xyxy * np.array([x, y, x, y], dtype=np.float32)
    if scene.whole_hw is None:
        image = resize_image(scene.image, size_hw)
    else:
        image = _resize_reduced(scene.image, scene.whole_hw, size_hw)
    return Scene(image, boxes, scene.rows, is_new=scene.is_new or image is not scene.image)


def flip_image(image: np.ndarray, in_place: bool) -> np.ndarray:
    """An image (H, W, 3) uint8 mirrored, in its own memory if it may be."""
    import cv2

    image = np.ascontiguousarray(image)
    return cv2.flip(image, 1, dst=image if in_place else None)


def crop_scene(scene: Scene, top: int, left: int, height: int, width: int) -> Scene:
    """The window of the scene; boxes are cut at its borders, and those without any part in it are dropped."""
    assert scene.whole_hw is None, "only the whole image can be cropped by pixels"
    window = scene.image[top : top + height, left : left + width]
    boxes = scene.boxes_xyxy - np.array([left, top, left, top], dtype=np.float32)
    return clip_and_filter(scene._replace(image=window, boxes_xyxy=boxes), 0.0)


def resize_window(scene: Scene, window: tuple[int, int, int, int], size_hw: tuple[int, int]) -> Scene:
    """The window (top, left, height, width) of the scene, resized to `size_hw`."""
    if scene.whole_hw is None:
        return resize_scene(crop_scene(scene, *window), size_hw)
    top, left, height, width = window
    k = reduction_of(scene.image.shape, scene.whole_hw)
    place = (left / k, top / k, (left + width) / k, (top + height) / k)  # between pixels: only Pillow resizes such
    resized = Image.fromarray(scene.image).resize(size_hw[::-1], Image.Resampling.BILINEAR, box=place)
    boxes = scene.boxes_xyxy - np.array([left, top, left, top], dtype=np.float32)
    cut = clip_and_filter(scene._replace(boxes_xyxy=boxes, whole_hw=(height, width)), 0.0)
    scales = np.array([size_hw[1] / width, size_hw[0] / height] * 2, dtype=np.float32)
    return Scene(np.array(resized), cut.boxes_xyxy * scales, cut.rows)


def random_window(scene: Scene, height: int, width: int, rng: random.Random) -> Scene:
    """A window of `height` x `width` anywhere in the scene; what is smaller stays as it is."""
    full_height, full_width = scene.image.shape[:2]
    height, width = min(height, full_height), min(width, full_width)
    return crop_scene(scene, rng.randint(0, full_height - height), rng.randint(0, full_width - width), height, width)


def clip_and_filter(scene: Scene, min_size: float) -> Scene:
    """Boxes cut at the image's borders, without those that end empty or smaller than `min_size`."""
    if not len(scene.boxes_xyxy):
        return scene  # a third of the time of a 32 x 32 image
    height, width = scene.size_hw
    boxes = np.clip(scene.boxes_xyxy, 0, np.array([width, height, width, height], dtype=np.float32))
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides > 0).all(axis=1) & (sides >= min_size).all(axis=1)
    return scene._replace(boxes_xyxy=boxes[kept], rows=scene.rows[kept])
