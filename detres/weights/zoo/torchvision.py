"""torchvision's Faster R-CNNs and ResNets, as its own table of weights has them when it is asked.

Names are that table's: torchvision/ResNet50_Weights.IMAGENET1K_V2. The recipes of the detectors and of the first
classifiers are those of its references/ and of its pull requests 912 and 5763.
"""

import re
from typing import Any

from detres.weights.zoo.entry import Entry, Metric, epochs, resnet_settings, sha256_in

_CLASSIFIERS = re.compile(r"(?:wide_)?res(?:net|next)\d+\w*")
_LICENCE = "BSD-3-Clause"

# In place of imagenet_r50.yaml's recipe, which is that of the second weights.
_FIRST = (
    "model.label_smoothing=0.0",
    "model.mixing=null",
    "data.train_transforms=[{type: random_resized_crop, size: 224}, {type: horizontal_flip}]",
    "train.batch_size=256",
    "train.reference_batch_size=256",
    "train.optimizer={lr: 0.1, weight_decay: 1e-4, norm_weight_decay: null}",
    "train.warmup.steps=0",
    "train.ema=null",
)
_RECIPES = {  # by the end of the address that torchvision's table gives
    "references/classification#resnet": (
        *_FIRST,
        "train.precision=float32",
        "train.epochs=90",
        "train.schedule={type: multistep, milestones: [30, 60]}",
    ),
    "references/classification#resnext": (
        *_FIRST,
        "train.precision=float32",
        "train.epochs=100",
        "train.schedule={type: multistep, milestones: [30, 60, 90]}",
    ),
    "pull/912#issue-445437439": (*_FIRST, "train.precision=float16", "train.epochs=256"),
}
_DETECTORS = {
    "fasterrcnn_resnet50_fpn": (
        "coco_r50_torchvision.yaml",
        (*epochs(26, (16, 22)), "data.train_transforms.0.short=[800]"),
    ),
    "fasterrcnn_resnet50_fpn_v2": (
        "coco_r50_torchvision_v2.yaml",
        (
            *epochs(400, (352, 384)),
            "model.backbone.weights=null",
            "model.backbone.norm=sync_batch",
            "data.train_transforms=[{type: large_scale_jitter}, {type: horizontal_flip}]",
            "train.batch_size=64",
            "train.reference_batch_size=64",
            "train.optimizer={type: sgd, lr: 0.1, weight_decay: 4e-5}",
        ),
    ),
}


def entries() -> list[Entry]:
    """All of them."""
    from torchvision import models
    from torchvision.models import detection, get_model_weights, list_models

    names = [name for name in list_models(module=models) if _CLASSIFIERS.fullmatch(name)]
    classifiers = [_classifier(name, weights) for name in names for weights in get_model_weights(name)]
    found = [name for name in list_models(module=detection) if name in _DETECTORS]
    return [_detector(name, weights) for name in found for weights in get_model_weights(name)] + classifiers


def _detector(model: str, weights: Any) -> Entry:
    config, settings = _DETECTORS[model]
    return Entry(
        name=f"torchvision/{weights}",
        url=weights.url,
        format="torchvision",
        kind="detector",
        dataset="COCO",
        config=config,
        overrides=settings,
        checksum=sha256_in(weights.url),
        metric=Metric("box AP", weights.meta["_metrics"]["COCO-val2017"]["box_map"]),
        licence=_LICENCE,
    )


def _classifier(model: str, weights: Any) -> Entry:
    recipe = weights.meta["recipe"]
    settings = next((settings for end, settings in _RECIPES.items() if recipe.endswith(end)), ())
    short = weights.transforms.keywords.get("resize_size", 256)
    return Entry(
        name=f"torchvision/{weights}",
        url=weights.url,
        format="torchvision",
        kind="classifier",
        dataset="ImageNet",
        config="imagenet_r50.yaml",
        overrides=(*resnet_settings(model), *settings, f"data.eval_transforms.0.short=[{short}]"),
        checksum=sha256_in(weights.url),
        metric=Metric("top-1", weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]),
        licence=_LICENCE,
        notes=(f"its publisher's recipe: {recipe}",),
    )
