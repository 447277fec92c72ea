"""Putting a state dict into a whole model of the same architecture, its head by class names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detres.weights.head import HeadSide, RowMap, describe_head, head_part, map_rows, same_classes, why_no_rows
from detres.weights.report import LoadReport, LoadRow, WeightsError, require_loaded
from detres.weights.torchvision_names import in_classifier_names

_SHOWN = 5
_MEAN_IMAGE = "pixels.mean_image"


class Copy(NamedTuple):
    """One tensor on its way into the model, whole or by rows."""

    tensor: Tensor
    target: Tensor
    rows: RowMap | None = None

    def run(self) -> None:
        """Do it."""
        if self.rows is None:
            self.target.copy_(self.tensor.reshape(self.target.shape))
        else:
            self.target[self.rows.target] = self.tensor[self.rows.source].to(self.target)


@dataclass
class Plan:
    """What a load is going to do, complete before the first tensor of the model is touched."""

    source: str
    target: dict[str, Tensor]
    rows: list[LoadRow] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)  # one text per tensor: key and both shapes

    def take(self, key: str, tensor: Tensor, detail: str = "") -> None:
        """Copy a tensor to the model's `key`; dimensions of size 1 may differ, anything else is a mismatch."""
        target = self.target[key]
        if tensor.shape == target.shape:
            self.rows.append(LoadRow(key, "loaded", detail))
            self.copies.append(Copy(tensor, target))
        elif _squeezed(tensor) == _squeezed(target):
            self.rows.append(LoadRow(key, "reshaped", f"{_shape(tensor)} -> {_shape(target)}"))
            self.copies.append(Copy(tensor, target))
        else:
            self.rows.append(LoadRow(key, "skipped", "another shape"))
            self.mismatched.append(f"{key} is {_shape(tensor)} in the file, {_shape(target)} in the model")

    def take_rows(self, key: str, tensor: Tensor, rows: RowMap) -> None:
        """Copy some rows of a tensor to rows of the model's `key`; all of them in order is a plain `take`."""
        target = self.target[key]
        every = rows.source == rows.target and len(rows.target) == len(target) == len(tensor)
        if every or tensor.shape[1:] != target.shape[1:]:
            self.take(key, tensor)
        else:
            self.rows.append(LoadRow(key, "rows", f"{len(rows.target)} of {len(target)} rows"))
            self.copies.append(Copy(tensor, target, rows))

    def skip(self, keys: Iterable[str], why: str) -> None:
        """Note tensors of the file that are not used."""
        self.rows += [LoadRow(key, "skipped", why) for key in keys]

    def miss(self, keys: Iterable[str], why: str = "not in the file") -> None:
        """Note tensors of the model that keep their initialisation."""
        self.rows += [LoadRow(key, "missing", why) for key in keys]

    def run(self, kept: Sequence[str] = (), initial: Sequence[str] = ()) -> LoadReport:
        """Copy; raises WeightsError, before copying, when there is nothing to copy."""
        report = require_loaded(LoadReport(self.source, tuple(self.rows), tuple(kept), tuple(initial)))
        with torch.no_grad():
            for copy in self.copies:
                copy.run()
        return report


def load_weights(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    class_names: Sequence[str] = (),
    source_class_names: Sequence[str] = (),
    source_background: str | None = None,
    strict: bool = True,
    source: str = "weights",
) -> LoadReport:
    """Copy `state_dict` into `model` (a detector or a classifier) and report every tensor.

    Names are detres's; a classifier takes torchvision's as well, and those of the public CIFAR ResNets.
    Of the class-wise head (`cls_score`, `bbox_pred`, `fc`), the rows of classes that both `class_names` (the model's)
    and `source_class_names` (the file's) hold are copied to their place, the others keep their initialisation; without
    names, heads of equally many classes are copied by position. `source_background`: row of the background class in
    the file, "first" or "last"; None: as the shapes tell.

    Outside the head every tensor must fit, none may be missing or left over; `strict=False` takes what fits.
    Raises WeightsError, leaving the model as it was, for another architecture and when nothing could be loaded.
    """
    own = model.state_dict()
    everything = in_classifier_names(state_dict, own)
    state_dict = {key: tensor for key, tensor in everything.items() if not is_counter(key)}
    plan = Plan(source, {key: tensor for key, tensor in own.items() if not is_counter(key)})
    plan.copies += [Copy(everything[key], own[key]) for key in own if is_counter(key) and key in everything]
    for key in state_dict:
        if key in plan.target and head_part(key) is None:
            plan.take(key, state_dict[key])
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    source_head = describe_head(state_dict, source_class_names, source_background)
    target_head = describe_head(plan.target, class_names, getattr(predictor, "background", None))
    kept, initial = _plan_head(plan, state_dict, source_head, target_head)
    left_over = [key for key in state_dict if key not in plan.target]
    absent = [key for key in plan.target if key not in state_dict]
    if strict:
        require_same_architecture(plan, left_over, absent)
    plan.skip(left_over, "the model has no such tensor")
    plan.miss(absent)
    return plan.run(kept, initial)


def is_counter(key: str) -> bool:
    """Whether a key is batch norm's step counter, which frozen norms do not have and no forward pass uses."""
    return key.endswith("num_batches_tracked")


def require_same_architecture(plan: Plan, left_over: Sequence[str] = (), absent: Sequence[str] = ()) -> None:
    """Raise WeightsError, naming the first tensors and both shapes, when a plan does not fit the model."""
    found = [
        *plan.mismatched,
        *(f"{key} is not in the file" for key in absent),
        *(f"{key} is not in the model" for key in left_over),
    ]
    if not found:
        return
    remedy = "Build the model with the configuration that the weights were trained with"
    if _MEAN_IMAGE in absent:
        remedy = (
            "Weights without a mean image want model.pixels.per_pixel_mean=null, and the model.pixels.mean and std "
            "that they were trained with"
        )
    counts = f"{len(plan.mismatched)} of another shape, {len(absent)} missing, {len(left_over)} left over"
    raise WeightsError(
        f"{plan.source}: weights of another architecture ({counts}): {'; '.join(found[:_SHOWN])}. {remedy}, "
        "or load with strict=False to take what fits"
    )


def _plan_head(
    plan: Plan, state_dict: Mapping[str, Tensor], source: HeadSide | None, target: HeadSide | None
) -> tuple[list[str], list[str]]:
    """Plan the head's tensors; returns the names of the classes kept and re-initialised, where they differ."""
    if source is None or target is None:
        return [], []
    labels = same_classes(source, target)
    for key, tensor in state_dict.items():
        part = head_part(key) if key in plan.target else None
        rows = map_rows(part, source, target, labels) if part else None
        if part and rows:
            plan.take_rows(key, tensor, rows)
        elif part:
            plan.skip([key], why_no_rows(part, source, target))
    names = target.class_names
    if labels == {label: label for label in range(max(source.num_classes, target.num_classes))}:
        return [], []
    kept = set(labels.values())
    return [n for i, n in enumerate(names) if i in kept], [n for i, n in enumerate(names) if i not in kept]


def _squeezed(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
