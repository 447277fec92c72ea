"""What detres writes beside the tensors that it exports, so that they come back to the model that they were."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from detres.weights.formats.interface import Implied
from detres.weights.formats.shapes import merge

KEY = "detres"  # beside the state dict, where detectron2 and mmdetection look for nothing


def write_note(model: Mapping[str, Any], class_names: Sequence[str], background: str) -> str:
    """JSON of a detector's or classifier's settings `model`, complete, and its class names.

    background: the row of the background as it was exported.
    """
    settings = merge(model, {"weights": None, "backbone": {"weights": None}})
    if "roi_heads" in settings:
        settings = merge(settings, {"roi_heads": {"background": background}})
    return json.dumps({"model": settings, "class_names": list(class_names)})


def read_note(extra: Mapping[str, Any]) -> Implied | None:
    """What the note of a file says; None where there is none, or none to be believed (only a ResNet is exported)."""
    text = extra.get(KEY)
    try:
        content = json.loads(text) if isinstance(text, str) else None
        if content is None or content["model"]["backbone"]["type"] != "resnet":
            return None
        return Implied(content["model"], tuple(map(str, content["class_names"])))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
