"""Settings of test time: how networks compute, and the systems around a detector or localizer
(detres.detector.test_time)."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from detres.config.fields import Fraction, PositiveFloat, PositiveInt, Settings

LONGEST = 2000
"""The default bound of the longer side, in pixels: that of multi-scale testing in Fast R-CNN."""


class InferenceSettings(Settings):
    """What is done to a copy of a network, in evaluation and prediction, so that it computes the same faster.

    eval.precision goes with it. See optimize_for_inference() of the networks.
    """

    fold_norms: bool = True  # batch norms become part of the convolutions before them
    channels_last: bool = True
    winograd: bool = True  # 3x3 convolutions with fewer multiplications, on CPUs
    compile: bool = False  # by torch.compile: half a minute or more at each evaluation


class BoxRefinementSettings(Settings):
    """Regions are pooled again where they moved to, and the boxes that NMS leaves are moved by a vote of the others.

    The kind of NMS stays model.roi_heads.nms; its IoU is the one here.
    """

    rounds: PositiveInt = 1
    nms_iou: Fraction = 0.3
    voting_iou: Fraction | None = 0.5  # null: no voting


class MultiScaleSettings(Settings):
    """Shorter sides of an image pyramid; each region is seen at the two where its area is nearest region_size^2.

    Proposals are made at the size of data.eval_transforms. The paper's are 200, 400, 600, 800, 1000 and 224 around a
    shorter side of 600; by default both are in that proportion to the shorter side of data.eval_transforms.
    """

    short: Annotated[list[PositiveInt], Field(min_length=2)] | None = None  # null: the paper's, in proportion
    max: PositiveInt | None = LONGEST  # bound of the longer side; null: none
    region_size: PositiveFloat | None = None  # null: the paper's, in proportion

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        yield from _repeated(self.short or [])
        if self.short and self.max is not None and self.max < sorted(self.short)[1]:
            text = f"got {self.max}, expected at least {sorted(self.short)[1]}, a shorter side: it makes all sizes one"
            yield "max", text


class AugmentSettings(Settings):
    """Detections of several views of the image, merged: each of the sizes, by option mirrored too."""

    short: Annotated[list[PositiveInt], Field(min_length=1)] | None = None  # null: that of data.eval_transforms alone
    max: PositiveInt | None = LONGEST  # bound of the longer side at the sizes of `short`; null: none
    flip: bool = True
    merge: Literal["nms", "soft_nms", "wbf"] = "nms"
    iou: Fraction | None = None  # of the merging; null: that of the NMS in each view; with wbf 0.55

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if len(self.short or [0]) == 1 and not self.flip:
            yield "flip", "got false and a single size, expected true, or sizes in short: there is nothing to merge"
        yield from _repeated(self.short or [])


class DenseSettings(Settings):
    """Whole images at each of the sizes, by option mirrored too, in place of data.eval_transforms and model.test_crop.

    The score of a class is the mean over these views; its box the mean, weighted by score, of those of the views'
    boxes that overlap the best-scored one by at least `voting_iou`.
    """

    short: Annotated[list[PositiveInt], Field(min_length=1)] = [224, 256, 384, 480, 640]
    max: PositiveInt | None = LONGEST  # bound of the longer side; null: none
    flip: bool = True
    voting_iou: Fraction | None = 0.5  # null: no voting, the best-scored box

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        yield from _repeated(self.short)


def _repeated(short: Sequence[int]) -> Iterator[tuple[str, str]]:
    if len(set(short)) < len(short):
        yield "short", f"got {list(short)}, expected each size once"
