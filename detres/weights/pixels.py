"""Whether a backbone is going to see the pixels that it was trained on."""

import math
from collections.abc import Mapping
from typing import Any

from detres.weights.sources import LoadedWeights

_ALIKE = 0.1  # relative; published means differ in their digits, and a network does not mind


def pixel_mismatch(weights: LoadedWeights, pixels: Mapping[str, Any]) -> str | None:
    """What to say when a detres checkpoint was trained on pixels of another mean, deviation or channel order.

    `pixels`: the settings `model.pixels` of the model that takes the weights. None when they agree, as far as is
    known: other files do not tell, and the mean image of `per_pixel_mean` is not compared.
    """
    stored = ((weights.config or {}).get("model") or {}).get("pixels") or {}
    with_image = stored.get("per_pixel_mean") or pixels.get("per_pixel_mean")
    keys = ["std", "channel_order"] if with_image else ["mean", "std", "channel_order"]
    differing = [key for key in keys if key in stored and key in pixels and not _alike(stored[key], pixels[key])]
    if not differing:
        return None
    wanted = " ".join(f"model.pixels.{key}={_text(stored[key])}" for key in differing)
    return f"{weights.source}: its network was trained on other pixels than this model will give it; set {wanted}"


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return bool(one == other)
    return all(math.isclose(a, b, rel_tol=_ALIKE) for a, b in zip(one, other, strict=True))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"[{','.join(map(str, value))}]"
