"""The settings of mmdetection's configurations in parts with short names, which zoo.mmdetection joins to entries."""

from typing import NamedTuple

from detres.weights.zoo.entry import epochs
from detres.weights.zoo.msra import started_from


class Part(NamedTuple):
    """Settings that go together, and what they leave unsaid."""

    settings: tuple[str, ...]
    notes: tuple[str, ...] = ()


# Of every detector there (AnchorGenerator, RPNHead, DeltaXYWHBBoxCoder, DetDataPreprocessor; _base_/schedules).
CONVENTIONS = (
    "model.pixels.size_divisibility=32",
    "model.anchors.order=ratio_major",
    "model.rpn.normalize_by=sampled",
    "model.rpn.symmetric_clamp=true",
    "model.roi_heads.symmetric_clamp=true",
    "train.warmup.steps=500",
)

_LEARNING = "the norms' weights and biases learned there (not their statistics); here they stay as they are"
_RANGE = "the shorter sides of training images came from a whole range there; here from some sizes of it"
_OTHER_START = "it started from other ImageNet weights of the same network, which the zoo does not have"
_OTHER_LOSS = "trained with a box loss that detres does not have ({})"
_OTHER_DATA = "detres does not read Open Images: the data of this configuration are COCO's"

_ONE_SCALE = ("data.train_transforms.0.short=[800]",)
_AT_35 = ("train.clip_grad_norm=35.0",)


def _adamw(lr: str, weight_decay: str) -> str:
    return f"train.optimizer={{type: adamw, lr: {lr}, weight_decay: {weight_decay}, bias_weight_decay: null}}"


def _resized(shorts: str, longest: int, test_short: int) -> tuple[str, ...]:
    return (
        f"data.train_transforms.0.short=[{shorts}]",
        f"data.train_transforms.0.max={longest}",
        f"data.eval_transforms.0.short=[{test_short}]",
        f"data.eval_transforms.0.max={longest}",
    )


def _coco_format(folder: str, annotations: str, images: str) -> tuple[str, ...]:
    """Where data in COCO's format lie; {} stands for train and val."""
    return tuple(
        f"data.{part}.{key}={folder}/{pattern.format(part)}"
        for part in ("train", "val")
        for key, pattern in (("annotations", f"annotations/{annotations}"), ("images", images))
    )


def _batch(size: int, lr: float) -> tuple[str, ...]:
    return (f"train.batch_size={size}", f"train.reference_batch_size={size}", f"train.optimizer.lr={lr}")


PARTS = {
    # Networks. "caffe" is MSRA's with frozen norms, "pytorch" torchvision's.
    "caffe50": Part(started_from("R-50")),
    "caffe101": Part(started_from("R-101")),
    "caffe32x8d": Part(started_from("X-101-32x8d")),
    "pytorch": Part((), (_LEARNING,)),
    "32x4d": Part(
        ("model.backbone.width_per_group=4", "model.backbone.weights=zoo:timm/resnext101_32x4d.gluon_in1k"),
        (_OTHER_START,),
    ),
    "64x4d": Part(
        (
            "model.backbone.groups=64",
            "model.backbone.width_per_group=4",
            "model.backbone.weights=zoo:timm/resnext101_64x4d.gluon_in1k",
        ),
        (_OTHER_START,),
    ),
    "dc5": Part(("model.rpn.straddle_threshold=0.0",)),
    "group_norm": Part(
        (
            "model.backbone.norm=group",
            "model.backbone.frozen_stages=0",
            "model.backbone.weights=null",
            "model.neck.norm=group",
            "model.roi_heads.box_head={type: conv_fc, norm: group}",
            "train.optimizer.norm_weight_decay=0.0",
        )
    ),
    # Training.
    "1x": Part((*epochs(12, (8, 11)), *_ONE_SCALE)),
    "2x": Part((*epochs(24, (16, 22)), *_ONE_SCALE)),
    "6x": Part((*epochs(73, (65, 71)), *_ONE_SCALE)),
    "ms-1x": Part(epochs(12, (8, 11))),
    "ms-2x": Part(epochs(24, (16, 23))),
    "ms-3x": Part(epochs(36, (28, 34))),
    "range-3x": Part(epochs(36, (27, 33)), (_RANGE,)),
    "fp16": Part(("train.precision=float16",)),
    "giou": Part(("model.roi_heads.box_loss=giou", "model.roi_heads.box_loss_weight=10.0")),
    "iou": Part((), (_OTHER_LOSS.format("IoULoss"),)),
    "bounded_iou": Part((), (_OTHER_LOSS.format("BoundedIoULoss"),)),
    "tnr": Part(("model.backbone.weights=torchvision:ResNet50_Weights.IMAGENET1K_V2", _adamw("1e-4", "0.1"))),
    "rsb": Part(("model.backbone.weights=zoo:timm/resnet50.a1_in1k", _adamw("2e-4", "0.05")), (_OTHER_START,)),
    # Other data.
    "voc": Part((*epochs(12, (9,)), *_resized("600", 1000, 600), "train.optimizer.lr=0.01", "train.warmup.steps=0")),
    "voc_c4": Part((), ("its address in the publisher's table is broken; this one follows the others'",)),
    "some_classes": Part((), ("trained on these classes alone; the data of this configuration have all of COCO's",)),
    "cityscapes": Part(
        (
            *epochs(64, (56,)),
            *_resized("800, 832, 864, 896, 928, 960, 992, 1024", 2048, 1024),
            *_coco_format("cityscapes", "instancesonly_filtered_gtFine_{}.json", "leftImg8bit/{}"),
            *_batch(8, 0.01),
            "model.weights=zoo:mmdetection/faster-rcnn_r50_fpn_1x_coco",
            "model.roi_heads.box_loss=smooth_l1",
            "model.roi_heads.smooth_l1_beta=1.0",
        ),
        (_RANGE,),
    ),
    "objects365v1": Part(_coco_format("objects365v1", "objects365_{}.json", "{}")),
    "objects365v2": Part(_coco_format("objects365v2", "zhiyuan_objv2_{}.json", "{}")),
    "objects_1x": Part((*epochs(12, (8, 11)), *_ONE_SCALE, *_batch(64, 0.08), *_AT_35, "train.warmup.steps=1000")),
    "objects_long": Part(
        (
            "train.steps=1350000",
            "train.schedule.milestones=[900000, 1200000]",
            "train.eval_every=150000",
            "train.warmup.steps=1000",
            *_ONE_SCALE,
            *_AT_35,
        )
    ),
    "open_images": Part(
        (
            *epochs(12, (8, 11)),
            *_resized("800", 1024, 800),
            *_batch(64, 0.08),
            *_AT_35,
            "train.warmup={steps: 26000, factor: 0.015625}",
        ),
        (_OTHER_DATA,),
    ),
    "class_aware": Part((), ("images were drawn class by class there (its ClassAwareSampler)",)),
    "challenge": Part(("model.roi_heads.score_threshold=0.01",)),
}
