"""What detres writes beside the tensors that it exports, so that they come back to the model that they were."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from detres.weights.formats.conventions import with_background, with_turned_channels
from detres.weights.formats.interface import Implied
from detres.weights.formats.shapes import merge

KEY = "detres"  # beside the state dict, where the other toolkits look for nothing


def write_note(
    format: str,
    model: Mapping[str, Any],
    class_names: Sequence[str],
    eval_transforms: Sequence[Mapping[str, Any]],
    *,
    turned: bool = False,
) -> str:
    """JSON of a model's settings `model`, complete, of its class names and of what an image goes through before it.

    format: that of the file; turned: whether the channels of the first convolution were turned for it.
    """
    settings = merge(model, {"weights": None, "backbone": {"weights": None}})
    content = {"format": format, "turned": turned, "model": settings, "class_names": list(class_names)}
    return json.dumps({**content, "eval_transforms": list(eval_transforms)})


def read_note(extra: Mapping[str, Any]) -> Implied | None:
    """What the note of a file says; None where there is none, or none to be believed (only ResNets are exported)."""
    content = _content(extra)
    try:
        if content is None or content["model"]["backbone"]["type"] not in ("resnet", "cifar_resnet"):
            return None
        names, steps = tuple(map(str, content["class_names"])), tuple(map(dict, content["eval_transforms"]))
        return Implied(content["model"], names, eval_transforms=steps)
    except (ValueError, KeyError, TypeError):
        return None


def noted_format(extra: Mapping[str, Any]) -> str | None:
    """The format that a file was exported to, as its note says; None without one."""
    found = (_content(extra) or {}).get("format")
    return found if isinstance(found, str) else None


def restored(
    state: Mapping[str, Tensor], extra: Mapping[str, Any], noted: Implied, background: str
) -> dict[str, Tensor]:
    """The exported tensors (in detres's names) as the model has them: its channels, its place of the background.

    background: the format's place of it.
    """
    turned = (_content(extra) or {}).get("turned") is True
    state = with_turned_channels(state) if turned else dict(state)
    heads = noted.model.get("roi_heads")
    place = heads.get("background") if isinstance(heads, Mapping) else None
    return with_background(state, place, background) if place in ("first", "last") else state


def _content(extra: Mapping[str, Any]) -> dict[str, Any] | None:
    text = extra.get(KEY)
    try:
        content = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
