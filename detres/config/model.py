"""Settings of the networks on a backbone: neck, anchors, RPN, RoI heads, classifier."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detres.config.backbones import Backbone, Norm, OutsideBackbone, ResNetSettings
from detres.config.fields import (
    BelowOne,
    ByType,
    Channels,
    Fraction,
    Layers,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    Switch,
)

LevelSizes = Annotated[list[PositiveFloat], Field(min_length=1)]
CoderWeights = Annotated[list[PositiveFloat], Field(min_length=4, max_length=4)]
BoxLoss = Literal["l1", "smooth_l1", "giou", "diou", "ciou"]


class FPNSettings(Settings):
    """Feature pyramid (detres.backbones.fpn.FPN)."""

    channels: Channels = 256
    norm: Norm = "none"
    top: Literal["maxpool", "conv", "none"] = "maxpool"  # p6 by subsampling p5, or p6 and p7 by convs on c5

    @property
    def extra_levels(self) -> int:
        """How many levels there are beyond the backbone's."""
        return {"maxpool": 1, "conv": 2, "none": 0}[self.top]


class PixelSettings(Settings):
    """How pixels become network input; values are on the 0..255 scale, in `channel_order`."""

    mean: Annotated[list[float], Field(min_length=3, max_length=3)] = [123.675, 116.28, 103.53]
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)] = [58.395, 57.12, 57.375]
    per_pixel_mean: Channels | None = None  # side of the images whose mean, taken over the training set for each
    # pixel on its own, is subtracted in place of `mean` (the paper); kept in the checkpoint
    channel_order: Literal["rgb", "bgr"] = "rgb"
    size_divisibility: NonNegativeInt = 32


class AnchorSettings(Settings):
    """Anchors: one list of sizes per feature level, shared aspect ratios (height / width)."""

    sizes: Annotated[list[LevelSizes], Field(min_length=1)] = [[32.0], [64.0], [128.0], [256.0], [512.0]]
    aspect_ratios: Annotated[list[PositiveFloat], Field(min_length=1)] = [0.5, 1.0, 2.0]
    rounded: bool = False  # torchvision rounds the corners of the cell anchors
    stride: Literal["nominal", "from_shape"] = "nominal"  # torchvision: padded size // feature size
    order: Literal["size_major", "ratio_major"] = "size_major"  # of the anchors of a cell; torchvision: ratio_major

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if len({len(level) for level in self.sizes}) > 1:
            text = f"got {self.sizes}, expected equally many sizes for every level: the levels share the RPN's head"
            yield "sizes", text


def _reversed_ious(settings: "RPNSampling | RoISampling") -> Iterator[tuple[str, str]]:
    if settings.negative_iou > settings.positive_iou:
        text = f"got {settings.negative_iou}, expected at most positive_iou ({settings.positive_iou})"
        yield "negative_iou", text


class RPNSampling(Settings):
    """Which anchors are positive, negative or neither, and how many of them enter the loss."""

    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    batch_size: PositiveInt = 256  # per image
    positive_fraction: Fraction = 0.5

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        return _reversed_ious(self)


class RoISampling(Settings):
    """Which regions are positive, negative or neither, and how many of them enter the loss."""

    positive_iou: Fraction = 0.5
    negative_iou: Fraction = 0.5
    batch_size: PositiveInt = 512  # per image
    positive_fraction: Fraction = 0.25  # without effect with ohem
    ohem: bool = False  # those of the largest losses instead of random ones (Shrivastava et al., 2016)
    ohem_nms_iou: Fraction = 0.7  # of two regions that overlap more, only the one with the larger loss

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        return _reversed_ious(self)


class RPNSettings(Settings):
    """Region proposal network (detres.detector.rpn.RPN)."""

    convs: Layers = 1
    channels: Channels | None = None  # of the convs; None: as many as the features have
    sampling: RPNSampling = RPNSampling()
    box_loss: BoxLoss = "l1"
    smooth_l1_beta: NonNegativeFloat = 0.0
    box_loss_weight: NonNegativeFloat = 1.0
    normalize_by: Literal["batch_size", "sampled"] = "batch_size"  # detectron2's and torchvision's divisor
    straddle_threshold: float = -1.0  # anchors further outside than this are not trained on; < 0: all are
    pre_nms_top_n_train: PositiveInt = 2000  # per level
    pre_nms_top_n_test: PositiveInt = 1000
    post_nms_top_n_train: PositiveInt = 1000  # per image
    post_nms_top_n_test: PositiveInt = 1000
    nms_iou: Fraction = 0.7
    min_size: NonNegativeFloat = 0.0
    score_threshold: Fraction = 0.0
    symmetric_clamp: bool = False  # decoded dw, dh are clamped from below too (mmdetection), not only from above


class FCHead(Settings):
    """Two (or more) fully connected layers."""

    type: Literal["fc"] = "fc"
    num_fcs: Layers = 2
    channels: Channels = 1024
    dropout: BelowOne = 0.0  # VGG's own layers, fc6 and fc7, have 0.5


class ConvFCHead(Settings):
    """Convolutions with a norm, then one fully connected layer ("4conv1fc")."""

    type: Literal["conv_fc"]
    num_convs: Layers = 4
    conv_channels: Channels = 256
    channels: Channels = 1024
    norm: Norm = "batch"


class Conv5Head(Settings):
    """The backbone's conv5_x applied to every region (C4)."""

    type: Literal["conv5"]


class RoIPoolSettings(Settings):
    """How regions are cut out of the feature maps (detres.layers.roi_pool.RoIPooler)."""

    type: Literal["roi_align", "roi_pool"] = "roi_align"
    output_size: Layers = 7
    sampling_ratio: NonNegativeInt = 0  # 0: adaptive
    aligned: bool = True
    canonical_size: PositiveFloat = 224.0
    canonical_level: PositiveInt = 4


class CascadeSettings(Settings):
    """Cascade R-CNN's stages (detres.detector.cascade.CascadeRoIHeads): one entry of each list for every stage.

    They stand in place of sampling.positive_iou, sampling.negative_iou and box_coder_weights. The paper regresses
    boxes for all classes together: class_agnostic true.
    """

    positive_ious: Annotated[list[Fraction], Field(min_length=2)] = [0.5, 0.6, 0.7]  # background is what is below
    box_coder_weights: list[CoderWeights] = [
        [10.0, 10.0, 5.0, 5.0],
        [20.0, 20.0, 10.0, 10.0],
        [30.0, 30.0, 15.0, 15.0],
    ]
    loss_weights: list[NonNegativeFloat] = [1.0, 0.5, 0.25]

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if sorted(self.positive_ious) != self.positive_ious:
            yield "positive_ious", f"got {self.positive_ious}, expected rising ones: each stage is stricter"
        if not any(self.loss_weights):
            yield "loss_weights", f"got {self.loss_weights}, expected one above 0: nothing would be learned"
        for key in ("box_coder_weights", "loss_weights"):
            if len(getattr(self, key)) != len(self.positive_ious):
                text = f"got {len(getattr(self, key))} entries, expected {len(self.positive_ious)}"
                yield key, f"{text}: one for each stage, as in positive_ious"


class RoIHeadSettings(Settings):
    """The second stage (detres.detector.roi_heads.RoIHeads)."""

    pool: RoIPoolSettings = RoIPoolSettings()
    box_head: Annotated[FCHead | ConvFCHead | Conv5Head, ByType()] = FCHead()
    global_context: bool = False  # the whole image's feature beside each region's (He et al., 2016, appendix B)
    cascade: Switch[CascadeSettings] = None
    class_agnostic: bool = False
    background: Literal["last", "first"] = "last"  # row of the background class; "first" is torchvision's layout
    sampling: RoISampling = RoISampling()
    add_ground_truth: bool = True
    box_loss: BoxLoss = "l1"
    smooth_l1_beta: NonNegativeFloat = 0.0
    box_loss_weight: NonNegativeFloat = 1.0
    box_coder_weights: CoderWeights = [10.0, 10.0, 5.0, 5.0]
    score_threshold: Fraction = 0.05
    nms: Literal["hard", "soft_linear", "soft_gaussian"] = "hard"
    nms_iou: Fraction = 0.5
    soft_nms_sigma: PositiveFloat = 0.5
    detections_per_image: PositiveInt = 100
    min_size: NonNegativeFloat = 0.0  # torchvision drops boxes below 0.01
    symmetric_clamp: bool = False  # as in RPNSettings


class FasterRCNNSettings(Settings):
    """A detector: FPN with a `neck`; C4 with backbone.out_features [c4] and a conv5 head; DC5 with dilated_c5."""

    type: Literal["faster_rcnn"]
    backbone: Backbone = ResNetSettings()
    neck: FPNSettings | None = None
    pixels: PixelSettings = PixelSettings()
    anchors: AnchorSettings = AnchorSettings()
    rpn: RPNSettings = RPNSettings()
    roi_heads: RoIHeadSettings = RoIHeadSettings()
    weights: str | None = None  # a whole detector to start from; its head rows follow the class names

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.backbone, OutsideBackbone):
            return  # what it gives is known only once it is built
        features = self.backbone.out_features
        c4 = isinstance(self.backbone, ResNetSettings) and features == ["c4"] and self.neck is None
        if isinstance(self.roi_heads.box_head, Conv5Head) and not c4:
            text = "got 'conv5', expected fc or conv_fc, or a resnet backbone with out_features [c4] and no neck"
            yield "roi_heads.box_head.type", text
        if self.neck is None and len(features) > 1:
            text = f"got {features} without a neck, expected one feature, or a neck (`neck: {{}}` is an FPN)"
            yield "backbone.out_features", text
            return
        if self.neck is not None:
            if isinstance(self.backbone, ResNetSettings) and self.backbone.dilated_c5:
                yield "backbone.dilated_c5", "got true with a neck, expected false: a pyramid needs strides that double"
            if "".join(name[1] for name in features) not in "2345":
                yield "backbone.out_features", f"got {features}, expected neighbours, such as [c3, c4, c5], for a neck"
                return
        num_levels = len(features) + (self.neck.extra_levels if self.neck else 0)
        if len(self.anchors.sizes) != num_levels:
            text = f"got {len(self.anchors.sizes)} lists, expected {num_levels}: one for each feature level"
            yield "anchors.sizes", text


class LinearHead(Settings):
    """Global average pooling; the fully connected layer of the classes follows."""

    type: Literal["linear"] = "linear"


class VGGHead(Settings):
    """VGG's: pooled to a small map, fully connected layers with dropout (detres.classifier.vgg_head.VGGHead)."""

    type: Literal["fc"]
    channels: Channels = 4096
    num_fcs: Layers = 2
    max_pool: bool = True  # 2x2, the last one of VGG, which the backbone leaves out
    pool_size: Layers = 7
    dropout: BelowOne = 0.5


class MixingSettings(Settings):
    """Training on mixtures of two images (detres.classifier.mixing.Mixing); all must have one size."""

    mixup: NonNegativeFloat = 0.2  # alpha of mixup; 0: off
    cutmix: NonNegativeFloat = 1.0  # alpha of CutMix; 0: off
    probability: Fraction = 1.0  # share of the images that are mixed
    switch_probability: Fraction = 0.5  # share of these that get CutMix, where both are on

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if self.mixup == 0 and self.cutmix == 0:
            yield "mixup", "got 0 with cutmix 0, expected one of them above 0, or model.mixing null"


class ClassifierSettings(Settings):
    """A classifier: backbone, a head that pools, one fully connected layer."""

    type: Literal["classifier"]
    backbone: Backbone = ResNetSettings()
    head: Annotated[LinearHead | VGGHead, ByType()] = LinearHead()
    pixels: PixelSettings = PixelSettings()
    label_smoothing: BelowOne = 0.0
    dropout: BelowOne = 0.0
    mixing: MixingSettings | None = None
    weights: str | None = None
