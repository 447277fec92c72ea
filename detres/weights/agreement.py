"""Whether a backbone is going to be computed as it was trained: what no tensor's shape can tell."""

import math
from collections.abc import Mapping
from typing import Any

from detres.weights.sources import LoadedWeights

_FORWARD = ("shortcut", "stride_in_1x1", "groups", "deep_stem", "avg_pool_shortcut", "norm_eps")
_DETECTOR = (
    ("anchors", ("sizes", "aspect_ratios", "rounded", "stride", "order")),
    ("rpn", ("symmetric_clamp",)),
    ("roi_heads", ("box_coder_weights", "symmetric_clamp")),
    ("roi_heads.cascade", ("box_coder_weights",)),
    ("roi_heads.pool", ("type", "sampling_ratio", "aligned", "canonical_size", "canonical_level")),
)
_ALIKE = 0.1  # relative; published means differ in their digits, and a network does not mind


def pixel_mismatch(weights: LoadedWeights, pixels: Mapping[str, Any]) -> str | None:
    """What to say when a detres checkpoint was trained on pixels of another mean, deviation or channel order.

    `pixels`: the settings `model.pixels` of the model that takes the weights. None when they agree, as far as is
    known: other files do not tell, and the mean image of `per_pixel_mean` is not compared.
    """
    stored = _at(weights.model_settings, "pixels")
    with_image = stored.get("per_pixel_mean") or pixels.get("per_pixel_mean")
    keys = ["std", "channel_order"] if with_image else ["mean", "std", "channel_order"]
    differing = [key for key in keys if key in stored and key in pixels and not _alike(stored[key], pixels[key])]
    if not differing:
        return None
    wanted = " ".join(f"model.pixels.{key}={_text(stored[key])}" for key in differing)
    return f"{weights.source}: its network was trained on other pixels than this model will give it; set {wanted}"


def backbone_mismatch(weights: LoadedWeights, backbone: Mapping[str, Any]) -> str | None:
    """What to say when the backbone of a detres checkpoint computes something else from the same tensors.

    `backbone`: the settings `model.backbone` of the model that takes the weights. None when they agree, or when the
    file does not tell.
    """
    stored = _at(weights.model_settings, "backbone")
    differing = [key for key in _FORWARD if key in stored and key in backbone and stored[key] != backbone[key]]
    if not differing:
        return None
    wanted = " ".join(f"model.backbone.{key}={str(stored[key]).lower()}" for key in differing if key != "shortcut")
    wanted += f" model.backbone.shortcut={stored['shortcut']}" if "shortcut" in differing else ""
    return f"{weights.source}: its backbone was trained in another form than this model's; set {wanted.strip()}"


def detector_mismatch(weights: LoadedWeights, model: Mapping[str, Any]) -> str | None:
    """What to say when a detector's anchors, pooling or box coding differ from those that its weights were made with.

    `model`: the settings `model` of the detector that takes the weights. None when they agree, or when the file does
    not tell.
    """
    wanted = []
    for path, keys in _DETECTOR:
        stored, ours = _at(weights.model_settings, path), _at(model, path)
        wanted += [
            f"model.{path}.{key}={str(stored[key]).replace(' ', '')}"
            for key in keys
            if key in stored and key in ours and stored[key] != ours[key]
        ]
    if not wanted:
        return None
    text = "its boxes were made in another way than this detector makes them; for the same ones set"
    return f"{weights.source}: {text} {' '.join(wanted)}"


def _at(settings: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The group at `path`, empty where there is none: the settings may come from a file that anybody wrote."""
    for key in path.split("."):
        found = settings.get(key)
        settings = found if isinstance(found, Mapping) else {}
    return settings


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return bool(one == other)
    try:
        return all(math.isclose(a, b, rel_tol=_ALIKE) for a, b in zip(one, other, strict=True))
    except (TypeError, ValueError, OverflowError):
        return False


def _text(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
