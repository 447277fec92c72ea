"""The transforms of images and boxes: steps in a row, keyed by a seed.

Shapes: H, W height and width, G boxes. Images are (H, W, 3) uint8, boxes (G, 4) float32 xyxy in pixels.
Where the first step resizes, it tells from the seed what size it will need, and takes an image decoded at a part of its
size (detres.data.scene).
Every step draws its random numbers from its own generator, made of the sample's seed and the step's position: the
result depends on the seed alone, and a step added at the end changes nothing before it.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from detres.data.classification_steps import STEPS as CLASSIFICATION_STEPS
from detres.data.scene import (
    Scene,
    clip_and_filter,
    crop_scene,
    flip_image,
    random_window,
    resize_scene,
    resize_window,
    shortest_edge_size,
)
from detres.data.suggestion import suggestion
from detres.structures.random import derive_seed


class Transformed(NamedTuple):
    """What DetectionTransforms returns."""

    image: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    num_dropped: int


Step = Callable[[Scene, int], Scene]


@runtime_checkable
class ResizingStep(Protocol):
    """A step that can begin with an image of a part of its size."""

    def __call__(self, scene: Scene, seed: int) -> Scene: ...

    def needed_hw(self, size_hw: tuple[int, int], seed: int) -> tuple[float, float]:
        """The size that a whole image of `size_hw` must have at least, for the step to lose nothing by it."""


class DetectionTransforms:
    """The `steps` one after the other, then clipping; boxes that vanish are dropped and counted.

    steps         dicts with `type` and the arguments of that type, as in data.train_transforms
    min_box_size  boxes narrower or lower than this after all steps are dropped (pixels)

    Raises ValueError for an unknown type or argument, naming the nearest valid one.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]], *, min_box_size: float = 1.0) -> None:
        self._steps = [_build_step(step, position) for position, step in enumerate(steps)]
        self._min_box_size = min_box_size

    def needed_hw(self, size_hw: tuple[int, int], seed: int) -> tuple[float, float] | None:
        """The smallest size in which an image of `size_hw` (height, width) will do, when transformed with this seed.

        None: the first step is none that resizes, and takes nothing but the whole image.
        """
        first = self._steps[0] if self._steps else None
        return first.needed_hw(size_hw, derive_seed(seed, 0)) if isinstance(first, ResizingStep) else None

    def __call__(
        self,
        image: np.ndarray,
        boxes_xyxy: np.ndarray,
        labels: np.ndarray,
        ignore: np.ndarray,
        seed: int,
        whole_hw: tuple[int, int] | None = None,
    ) -> Transformed:
        """Transform one image (H, W, 3) uint8 with boxes (G, 4), labels (G,) int64 and ignore (G,) bool; G may be 0.

        `whole_hw`: height and width of the whole image, of which `image` may be a reduction (not below needed_hw).
        """
        boxes = np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
        reduced_from = None if whole_hw is None or image.shape[:2] == tuple(whole_hw) else whole_hw
        scene = Scene(image, boxes, np.arange(len(boxes)), reduced_from)
        for position, step in enumerate(self._steps):
            scene = step(scene, derive_seed(seed, position))
        scene = clip_and_filter(scene, self._min_box_size)
        return Transformed(
            np.ascontiguousarray(scene.image),
            scene.boxes_xyxy,
            np.asarray(labels, dtype=np.int64)[scene.rows],
            np.asarray(ignore, dtype=bool)[scene.rows],
            len(boxes) - len(scene.boxes_xyxy),
        )


@dataclass(frozen=True)
class ResizeShortest:
    """Shorter side to one of `short`, chosen at random; longer side at most `max`."""

    short: Sequence[int]
    max: int | None = None

    def needed_hw(self, size_hw: tuple[int, int], seed: int) -> tuple[int, int]:
        """The size that comes out."""
        return shortest_edge_size(size_hw, random.Random(seed).choice(self.short), self.max)

    def __call__(self, scene: Scene, seed: int) -> Scene:
        return resize_scene(scene, self.needed_hw(scene.size_hw, seed))


@dataclass(frozen=True)
class ResizeFixed:
    """To `height` x `width`, whatever the aspect ratio."""

    height: int
    width: int

    def needed_hw(self, size_hw: tuple[int, int], seed: int) -> tuple[int, int]:
        """The size that comes out."""
        return self.height, self.width

    def __call__(self, scene: Scene, seed: int) -> Scene:
        return resize_scene(scene, (self.height, self.width))


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror with probability `p`."""

    p: float = 0.5

    def __call__(self, scene: Scene, seed: int) -> Scene:
        if random.Random(seed).random() >= self.p:
            return scene
        boxes = scene.boxes_xyxy.copy()
        boxes[:, [0, 2]] = scene.image.shape[1] - scene.boxes_xyxy[:, [2, 0]]
        return scene._replace(image=flip_image(scene.image, scene.is_new), boxes_xyxy=boxes, is_new=True)


@dataclass(frozen=True)
class LargeScaleJitter:
    """Fit into a `size` square times a random scale, then crop at random to at most `size` (Ghiasi et al., 2021).

    Smaller images stay smaller: padding happens in the batch.
    """

    size: int = 1024
    min_scale: float = 0.1
    max_scale: float = 2.0

    def needed_hw(self, size_hw: tuple[int, int], seed: int) -> tuple[int, int]:
        """The size before the crop."""
        return self._scaled(size_hw, random.Random(seed))

    def __call__(self, scene: Scene, seed: int) -> Scene:
        rng = random.Random(seed)
        return random_window(resize_scene(scene, self._scaled(scene.size_hw, rng)), self.size, self.size, rng)

    def _scaled(self, size_hw: tuple[int, int], rng: random.Random) -> tuple[int, int]:
        height, width = size_hw
        ratio = rng.uniform(self.min_scale, self.max_scale) * min(self.size / height, self.size / width)
        return max(1, math.floor(height * ratio + 0.5)), max(1, math.floor(width * ratio + 0.5))


@dataclass(frozen=True)
class RandomCrop:
    """A random window of `height` x `width`; what is smaller stays as it is."""

    height: int
    width: int

    def __call__(self, scene: Scene, seed: int) -> Scene:
        return random_window(scene, self.height, self.width, random.Random(seed))


@dataclass(frozen=True)
class CenterCrop:
    """The central window of `size` x `size`; what is smaller stays as it is."""

    size: int

    def __call__(self, scene: Scene, seed: int) -> Scene:
        height, width = (min(self.size, side) for side in scene.image.shape[:2])
        top, left = (scene.image.shape[0] - height) // 2, (scene.image.shape[1] - width) // 2
        return crop_scene(scene, top, left, height, width)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random window by share of the area and aspect ratio (width / height), resized to `size` (Szegedy et al.)."""

    size: int
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)

    def needed_hw(self, size_hw: tuple[int, int], seed: int) -> tuple[float, float]:
        """The size of an image whose window is `size` x `size` without being resized."""
        _, _, height, width = self._window(*size_hw, random.Random(seed))
        return size_hw[0] * self.size / height, size_hw[1] * self.size / width

    def __call__(self, scene: Scene, seed: int) -> Scene:
        window = self._window(*scene.size_hw, random.Random(seed))
        return resize_window(scene, window, (self.size, self.size))

    def _window(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height, width; after ten windows that do not fit, the largest central one of a valid ratio."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return rng.randint(0, height - h), rng.randint(0, width - w), h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
        return (height - h) // 2, (width - w) // 2, h, w


_STEPS: dict[str, Any] = {
    "resize_shortest": ResizeShortest,
    "resize": ResizeFixed,
    "horizontal_flip": HorizontalFlip,
    "large_scale_jitter": LargeScaleJitter,
    "random_crop": RandomCrop,
    "center_crop": CenterCrop,
    "random_resized_crop": RandomResizedCrop,
    **CLASSIFICATION_STEPS,
}


def _build_step(step: Mapping[str, Any], position: int) -> Step:
    """The step that a dict describes."""
    where, arguments = f"transform number {position}", dict(step)
    kind = arguments.pop("type", None)
    if kind == "albumentations":
        from detres.data.albumentations_step import AlbumentationsStep

        return AlbumentationsStep(**arguments)
    if kind not in _STEPS:
        raise ValueError(f"{where}: unknown type {kind!r}{suggestion(str(kind), [*_STEPS, 'albumentations'])}")
    known = [field.name for field in fields(_STEPS[kind])]
    for name in arguments:
        if name not in known:
            raise ValueError(f"{where} ({kind}): unknown argument {name!r}{suggestion(name, known)}")
    try:
        built: Step = _STEPS[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"{where} ({kind}): {error}") from error
    return built
