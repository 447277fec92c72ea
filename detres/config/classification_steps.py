"""Settings of the transforms for classifiers (detres.data.classification_steps)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detres.config.fields import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings

Color = Annotated[list[Annotated[float, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
Range = Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)]


class RandomResizeShortest(Settings):
    """Shorter side to a whole number from `min` to `max`, chosen at random (the ResNet paper: 256 to 480)."""

    type: Literal["random_resize_shortest"]
    min: PositiveInt
    max: PositiveInt

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if self.min > self.max:
            yield "min", f"got {self.min}, expected at most max ({self.max})"


class PadAndCrop(Settings):
    """A random window of `size` x `size` out of the image with `padding` pixels around."""

    type: Literal["pad_and_crop"]
    padding: NonNegativeInt = 4
    size: PositiveInt = 32
    fill: Color = [0.0, 0.0, 0.0]  # RGB on the 0..255 scale


class PcaLighting(Settings):
    """AlexNet's colour augmentation: a shift along the principal components of ImageNet's colours."""

    type: Literal["pca_lighting"]
    std: NonNegativeFloat = 0.1


class ColorJitter(Settings):
    """Random brightness, contrast, saturation and hue, in random order, as torchvision does."""

    type: Literal["color_jitter"]
    brightness: NonNegativeFloat = 0.0
    contrast: NonNegativeFloat = 0.0
    saturation: NonNegativeFloat = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class TrivialAugment(Settings):
    """One random operation of random strength (torchvision's TrivialAugmentWide); not for detectors."""

    type: Literal["trivial_augment"]


class RandAugment(Settings):
    """`num_ops` random operations of strength `magnitude` out of 30 (torchvision's RandAugment); not for detectors."""

    type: Literal["rand_augment"]
    num_ops: PositiveInt = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class RandomErasing(Settings):
    """A random rectangle covered with probability `p`, by one colour or by random pixels."""

    type: Literal["random_erasing"]
    p: Fraction = 0.5
    scale: Range = [0.02, 0.33]  # share of the image's area
    ratio: Range = [0.3, 3.3]  # height / width
    fill: Color | None = None  # None: every pixel its own, at random

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                yield name, f"got {[low, high]}, expected the smaller bound first"
        if self.scale[1] > 1:
            yield "scale", f"got {self.scale}, expected shares of at most 1"


UNFOLLOWED_BY_BOXES = ("trivial_augment", "rand_augment")
"""Types of steps that move pixels without telling where to."""
