"""ImageNet's localisation error: is the class right, and does its box fit (Russakovsky et al., 2015, section 4.2)?

Shapes: G ground-truth boxes and D predicted boxes of one image.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from detres.evaluation.metrics import DetectionMetrics
from detres.structures import Detections
from detres.structures.boxes import pairwise_iou

NUM_GUESSES = 5

_MEANINGS = {
    "error_given_class": "LOC error given the true class: share of images whose box for their class does not fit",
    "error_top1": "LOC error, top-1: share of images whose best-scored class is wrong, or its box does not fit",
    "error_top5": "LOC error, top-5: share of images of which none of the five best-scored classes is right and fits",
    "loc_given_class": "1 - error_given_class",
    "loc_top1": "1 - error_top1",
    "loc_top5": "1 - error_top5",
    "top1": "share of images whose best-scored class is right",
    "top5": "share of images whose class is among the five best-scored",
    "mean_iou": "mean IoU of the box for the true class with the nearest object",
}


class LocatedObjects(Protocol):
    """Ground truth of one image: boxes (G, 4) xyxy, labels (G,), all of one class but for `ignore` (G,) ones."""

    @property
    def boxes_xyxy(self) -> Any: ...

    @property
    def labels(self) -> Any: ...

    @property
    def ignore(self) -> Any: ...


class _Judged(NamedTuple):
    """One image: its class, its number of objects, the best IoU given its class (None: not asked), what was right."""

    label: int
    num_objects: int
    given_iou: float | None
    loc_top1: bool
    loc_top5: bool
    top1: bool
    top5: bool


def evaluate_localization(
    ground_truth: Sequence[LocatedObjects],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    *,
    given: Sequence[Detections] | None = None,
    iou_threshold: float = 0.5,
) -> DetectionMetrics:
    """The errors of a localizer over images of one class each; a box fits with an IoU of at least `iou_threshold`.

    predictions  of every image, boxes with their classes by decreasing score; the first five count
    given        of every image, one box for its true class; None: what depends on it is None, with the reason

    An image without predictions is an error. Raises ValueError for lists of unequal length, labels outside
    `class_names`, and images without objects or with objects of several classes.
    """
    for what, found in (("predictions", predictions), ("given", ground_truth if given is None else given)):
        if len(found) != len(ground_truth):
            raise ValueError(f"expected {what} for {len(ground_truth)} images, got {len(found)}")
    asked = [None] * len(ground_truth) if given is None else given
    images = [
        _judge(number, truth, found, box, len(class_names), iou_threshold)
        for number, (truth, found, box) in enumerate(zip(ground_truth, predictions, asked, strict=True))
    ]
    metrics = {name: None for name in _MEANINGS} | _summary(images, iou_threshold)
    reasons = {name: "there are no images" for name in _MEANINGS} if not images else {}
    if images and given is None:
        unknown = [name for name in _MEANINGS if metrics[name] is None]
        reasons |= dict.fromkeys(unknown, "the results hold no box for the true class alone")
    if images and len(class_names) <= NUM_GUESSES:
        metrics["top5"], reasons["top5"] = None, f"with {len(class_names)} classes the five best-scored are all of them"
    per_class = [
        {"name": name, **_class_row([image for image in images if image.label == label], iou_threshold)}
        for label, name in enumerate(class_names)
    ]
    return DetectionMetrics("localization", metrics, reasons, _MEANINGS, per_class if images else [])


def _judge(
    number: int, truth: LocatedObjects, found: Detections, given: Detections | None, num_classes: int, threshold: float
) -> _Judged:
    counts = ~torch.as_tensor(truth.ignore, dtype=torch.bool)
    boxes = torch.as_tensor(truth.boxes_xyxy).reshape(-1, 4)[counts]
    labels = torch.as_tensor(truth.labels)[counts]
    classes = labels.unique().tolist()
    if len(classes) != 1:
        what = f"objects of {len(classes)} classes" if classes else "no object"
        raise ValueError(f"image number {number} has {what}; localisation needs images with objects of exactly one")
    found = found[:NUM_GUESSES]
    for each in [found] if given is None else [found, given]:
        if len(each) and not 0 <= int(each.labels.min()) <= int(each.labels.max()) < num_classes:
            raise ValueError(
                f"image number {number} has predictions of the classes {each.labels.tolist()}, expected 0 ... "
                f"{num_classes - 1}"
            )
    right = found.labels == classes[0]
    fits = right & (_best_iou(found, boxes) >= threshold)
    iou = None if given is None else float(_best_iou(given[:1], boxes).sum())  # of no box: 0
    return _Judged(
        classes[0],
        len(boxes),
        iou,
        bool(fits[:1].any()),
        bool(fits.any()),
        bool(right[:1].any()),
        bool(right.any()),
    )


def _best_iou(found: Detections, boxes: Tensor) -> Tensor:
    """The IoU (D,) of each box with the nearest of the objects (G, 4)."""
    return pairwise_iou(found.boxes_xyxy.double(), boxes.double()).amax(dim=1)


def _summary(images: Sequence[_Judged], threshold: float) -> dict[str, float | None]:
    """The metrics of some images; nothing for none."""
    if not images:
        return {}
    shares = {
        name: sum(getattr(image, name) for image in images) / len(images)
        for name in ("loc_top1", "loc_top5", "top1", "top5")
    }
    ious = [image.given_iou for image in images if image.given_iou is not None]
    if ious:
        shares["loc_given_class"] = sum(iou >= threshold for iou in ious) / len(ious)
        shares["mean_iou"] = sum(ious) / len(ious)
    errors = {name.replace("loc_", "error_"): 1.0 - value for name, value in shares.items() if name.startswith("loc_")}
    return shares | errors


def _class_row(images: Sequence[_Judged], threshold: float) -> dict[str, Any]:
    """What is said of one class."""
    found = _summary(images, threshold)
    names = ("loc_given_class", "loc_top1", "loc_top5", "mean_iou")
    numbers = {name: found.get(name) for name in names}
    return {"num_images": len(images), "num_ground_truth": sum(image.num_objects for image in images), **numbers}
