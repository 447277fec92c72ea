"""One step of the transforms done by albumentations 2.0, any transform of its that supports boxes.

Several of its ways would harm training silently, and are closed here: boxes are clipped and filtered before they
reach it, rows of annotations travel instead of labels (it turns integers into floats), arguments that it does not
know are errors (it warns), and its random numbers come from the sample's seed (it ignores numpy's).
"""

import inspect
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

# albumentations asks a web server for its newest version when it is imported, unless this is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations

from detres.data.scene import Scene
from detres.data.suggestion import suggestion


class AlbumentationsStep:
    """The transform `name` with `args`.

    For OneOf, SomeOf, Sequential and RandomOrder, `args["transforms"]` is a list of {name, args}.
    Raises ValueError for an unknown name or argument, for a transform without box support, and for one that needs
    more than the image (a second image, a mask).
    """

    def __init__(self, name: str, args: Mapping[str, Any] | None = None) -> None:
        self._name = name
        transform = _build(name, args or {})
        boxes = albumentations.BboxParams(
            format="pascal_voc", label_fields=["rows"], clip=True, filter_invalid_bboxes=True
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Got processor for bboxes")  # of transforms of pixels alone
            self._compose = albumentations.Compose([transform], bbox_params=boxes)

    def __call__(self, scene: Scene, seed: int) -> Scene:
        """Apply the transform; boxes that leave the image are dropped."""
        height, width = scene.image.shape[:2]
        limits = np.array([width, height, width, height], dtype=np.float32)
        boxes = np.clip(scene.boxes_xyxy, 0, limits)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        self._compose.set_random_seed(seed % 2**32)
        image, rows = np.ascontiguousarray(scene.image), np.arange(kept.sum())
        try:
            out = self._compose(image=image, bboxes=boxes[kept], rows=rows)
        except Exception as error:  # its functions and OpenCV raise what they like
            size = f"{width} x {height}"
            raise ValueError(f"albumentations {self._name} failed on an image of {size}: {error}") from error
        image = out["image"]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"albumentations {self._name} made pixels {image.shape} of type {image.dtype}; expected (H, W, 3) "
                "uint8: leave normalisation, conversion to tensors and the like to the model"
            )
        found = np.asarray(out["bboxes"], dtype=np.float32).reshape(-1, 4)
        rows = np.asarray(out["rows"], dtype=np.float64).round().astype(np.int64)
        return Scene(image, found, scene.rows[kept][rows])


def _build(name: str, args: Mapping[str, Any]) -> Any:
    """The albumentations object, checked."""
    kind = _lookup(name)
    arguments = dict(args)
    known = [parameter for parameter in inspect.signature(kind.__init__).parameters if parameter != "self"]
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"albumentations {name}: unknown argument {argument!r}{suggestion(argument, known)}")
    if "transforms" in arguments:
        arguments["transforms"] = [_build_nested(name, entry) for entry in arguments["transforms"]]
    try:
        built = kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"albumentations {name}: {error}") from error
    if getattr(built, "targets_as_params", None):
        raise ValueError(f"albumentations {name} needs {built.targets_as_params} beside the image; use another one")
    return built


def _build_nested(outer: str, entry: Any) -> Any:
    if not isinstance(entry, Mapping) or "name" not in entry or set(entry) - {"name", "args"}:
        raise ValueError(f"albumentations {outer}: transforms must be a list of {{name, args}}, got {entry!r}")
    return _build(entry["name"], entry.get("args") or {})


def _lookup(name: str) -> Any:
    """The class of that name, if it can carry boxes along."""
    kinds = {
        key: value
        for key, value in vars(albumentations).items()
        if inspect.isclass(value) and issubclass(value, albumentations.BasicTransform | albumentations.BaseCompose)
    }
    kind = kinds.get(name)
    if kind is None:
        raise ValueError(f"albumentations has no transform {name!r}{suggestion(name, list(kinds))}")
    if issubclass(kind, albumentations.BasicTransform) and not _supports_boxes(kind):
        raise ValueError(
            f"albumentations {name} does not support boxes: they would no longer fit the image; use another transform"
        )
    return kind


def _supports_boxes(kind: Any) -> bool:
    """Image-only transforms leave boxes where they are; others must name boxes among their targets."""
    if issubclass(kind, albumentations.ImageOnlyTransform):
        return True
    targets = getattr(kind, "_targets", ())  # the abstract bases have none
    targets = targets if isinstance(targets, tuple | list) else (targets,)
    return "bboxes" in {str(getattr(target, "value", target)).lower() for target in targets}
