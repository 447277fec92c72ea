"""Steps of the transforms for classifiers: crops, colours, published policies of random operations, erasing.

Images are (H, W, 3) uint8 RGB. As in detres.data.transforms, a step depends on its seed alone. Those that move pixels
without telling where to are refused on images with boxes; the others may serve detectors too.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from detres.data.scene import Scene, random_window, resize_scene, shortest_edge_size


@dataclass(frozen=True)
class RandomResizeShortest:
    """Shorter side to a whole number from `min` to `max`: scale augmentation (Simonyan and Zisserman, 2015)."""

    min: int
    max: int

    def needed_hw(self, size_hw: tuple[int, int], seed: int) -> tuple[int, int]:
        """The size that comes out."""
        return shortest_edge_size(size_hw, random.Random(seed).randint(self.min, self.max), None)

    def __call__(self, scene: Scene, seed: int) -> Scene:
        return resize_scene(scene, self.needed_hw(scene.size_hw, seed))


@dataclass(frozen=True)
class PadAndCrop:
    """A random window of `size` x `size` out of the image with `padding` pixels around (Lee et al., 2015).

    `fill` is the colour of the padding, on the 0..255 scale: the data's mean where the paper pads, after it has
    subtracted the mean, with zeros. What is smaller than the window stays as it is.
    """

    padding: int = 4
    size: int = 32
    fill: Sequence[float] = (0.0, 0.0, 0.0)

    def __call__(self, scene: Scene, seed: int) -> Scene:
        height, width = scene.image.shape[:2]
        around = self.padding
        padded = np.empty((height + 2 * around, width + 2 * around, 3), dtype=np.uint8)
        padded[:] = self._color
        padded[around : around + height, around : around + width] = scene.image
        moved = scene._replace(image=padded, boxes_xyxy=scene.boxes_xyxy + np.float32(around))
        return random_window(moved, self.size, self.size, random.Random(seed))

    @cached_property
    def _color(self) -> np.ndarray:
        return np.clip(np.rint(self.fill), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class PcaLighting:
    """Shift all pixels along the principal components of ImageNet's colours (Krizhevsky et al., 2012, section 4.1).

    Each component is drawn from a normal distribution with deviation `std` and scaled by its eigenvalue.
    """

    std: float = 0.1

    def __call__(self, scene: Scene, seed: int) -> Scene:
        rng = random.Random(seed)
        drawn = np.array([rng.gauss(0.0, self.std) for _ in range(3)])
        shift = 255.0 * (_EIGENVECTORS @ (drawn * _EIGENVALUES))
        table = np.clip(np.rint(np.arange(256)[:, None] + shift), 0, 255).astype(np.uint8)
        import cv2  # many times as fast as adding, rounding and clipping each pixel

        return scene._replace(image=cv2.LUT(np.ascontiguousarray(scene.image), table[None]))


_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
"""Of ImageNet's colours in 0..1, as fb.resnet.torch publishes them; the columns below are their eigenvectors, RGB."""

_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue times or plus a random number, in random order, as torchvision does.

    The first three factors are uniform in [1 - x, 1 + x], not below 0; the hue turns by up to `hue` of a full turn.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __call__(self, scene: Scene, seed: int) -> Scene:
        from torchvision.transforms.v2 import functional

        rng = random.Random(seed)
        changes: list[tuple[Callable[..., Any], float]] = []
        for name in ("brightness", "contrast", "saturation"):
            strength = getattr(self, name)
            factor = rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength)
            changes += [(getattr(functional, f"adjust_{name}"), factor)] if strength > 0 else []
        if self.hue > 0:
            changes.append((functional.adjust_hue, rng.uniform(-self.hue, self.hue)))
        rng.shuffle(changes)
        picture = Image.fromarray(np.ascontiguousarray(scene.image))
        for change, amount in changes:
            picture = change(picture, amount)
        return scene._replace(image=np.array(picture))


@dataclass(frozen=True)
class TrivialAugment:
    """One operation, chosen and sized at random (TrivialAugment, "wide": Mueller and Hutter, 2021), by torchvision."""

    def __call__(self, scene: Scene, seed: int) -> Scene:
        from torchvision.transforms import v2

        policy = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
        return _keyed(policy, "trivial_augment", scene, seed)


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` random operations of strength `magnitude` of 30 (RandAugment: Cubuk et al., 2020), by torchvision."""

    num_ops: int = 2
    magnitude: int = 9

    def __call__(self, scene: Scene, seed: int) -> Scene:
        from torchvision.transforms import v2

        policy = v2.RandAugment(self.num_ops, self.magnitude, interpolation=v2.InterpolationMode.BILINEAR)
        return _keyed(policy, "rand_augment", scene, seed)


def _keyed(policy: Callable[[Any], Any], name: str, scene: Scene, seed: int) -> Scene:
    """The scene with its image through one of torchvision's policies, whose random numbers come from `seed`."""
    if len(scene.boxes_xyxy):
        raise ValueError(
            f"{name} got an image with boxes: it turns and shears pixels, and the boxes would no longer fit; expected "
            "images of a classification set. For a detector use steps of type albumentations"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that would reset the accelerators' too
        return scene._replace(image=np.array(policy(Image.fromarray(np.ascontiguousarray(scene.image)))))


@dataclass(frozen=True)
class RandomErasing:
    """A random rectangle covered with probability `p` (Zhong et al., 2020), its window drawn as torchvision does.

    scale, ratio  share of the image's area and aspect ratio (height / width) of the rectangle
    fill          an RGB colour on the 0..255 scale, for instance the data's mean; None: every pixel its own at random
    """

    p: float = 0.5
    scale: Sequence[float] = (0.02, 0.33)
    ratio: Sequence[float] = (0.3, 3.3)
    fill: Sequence[float] | None = None

    def __call__(self, scene: Scene, seed: int) -> Scene:
        rng = random.Random(seed)
        if rng.random() >= self.p:
            return scene
        window = self._window(scene.image.shape[0], scene.image.shape[1], rng)
        if window is None:
            return scene
        top, left, height, width = window
        image = scene.image.copy()  # the data set may keep its images in memory
        image[top : top + height, left : left + width] = self._pixels(height, width, seed)
        return scene._replace(image=image)

    def _window(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int] | None:
        """Top, left, height, width; None after ten that do not fit."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                return rng.randint(0, height - h), rng.randint(0, width - w), h, w
        return None

    def _pixels(self, height: int, width: int, seed: int) -> np.ndarray:
        if self.fill is None:
            return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return np.clip(np.rint(self.fill), 0, 255).astype(np.uint8)


STEPS: dict[str, Any] = {
    "random_resize_shortest": RandomResizeShortest,
    "pad_and_crop": PadAndCrop,
    "pca_lighting": PcaLighting,
    "color_jitter": ColorJitter,
    "trivial_augment": TrivialAugment,
    "rand_augment": RandAugment,
    "random_erasing": RandomErasing,
}
