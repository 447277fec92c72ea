"""Settings of the localizer (detres.detector.localizer.Localizer)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detres.config.backbones import Backbone, ResNetSettings
from detres.config.fields import Channels, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Settings
from detres.config.model import BoxLoss, PixelSettings


class LocalizerAnchors(Settings):
    """Anchors on each position of the trunk's last map; the sizes are for crops of 224 x 224."""

    sizes: Annotated[list[PositiveFloat], Field(min_length=1)] = [64.0, 128.0, 256.0]
    aspect_ratios: Annotated[list[PositiveFloat], Field(min_length=1)] = [0.5, 1.0, 2.0]  # height / width


class LocalizerSampling(Settings):
    """Which anchors are positive, negative or neither, and how many of them enter the loss."""

    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    batch_size: PositiveInt = 8  # per image
    positive_fraction: Fraction = 0.5

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if self.negative_iou > self.positive_iou:
            yield "negative_iou", f"got {self.negative_iou}, expected at most positive_iou ({self.positive_iou})"


class LocalizerSettings(Settings):
    """A per-class RPN on a classifier's trunk, which backbone.weights names: boxes for the classes of an image."""

    type: Literal["localizer"]
    backbone: Backbone = ResNetSettings()  # its last feature map is used
    pixels: PixelSettings = PixelSettings()
    anchors: LocalizerAnchors = LocalizerAnchors()
    channels: Channels = 512
    sampling: LocalizerSampling = LocalizerSampling()
    box_loss: BoxLoss = "l1"
    smooth_l1_beta: NonNegativeFloat = 0.0
    box_loss_weight: NonNegativeFloat = 1.0
    num_boxes: PositiveInt = 5  # a box for each of so many classes, the most likely ones
    test_crop: PositiveInt | None = None  # look at the central crop of this side alone; null: at the whole image
    weights: str | None = None  # a whole localizer of the same classes to start from
