"""Heads whose rows belong to classes: which rows of a file go to which rows of the model.

Layouts: K classes. `cls_score` has K + 1 rows, the background's is the last or the first. `bbox_pred` has 4 rows per
class (K groups with the background last, K + 1 with it first, as in torchvision), or 4 in all when class-agnostic.
A classifier's `fc` has K rows.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from torch import Tensor

from detres.weights.report import shorten

HeadPart = Literal["cls_score", "bbox_pred", "fc"]

# VOC's and COCO's names of the same things; both sides of a pair are read as the second.
_ALIASES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}

_HEAD = re.compile(r"^(?:roi_heads\..*?(cls_score|bbox_pred)|(fc))\.(?:weight|bias)$")


class RowMap(NamedTuple):
    """Rows of the file and, in step with them, rows of the model that they go to."""

    source: list[int]
    target: list[int]


@dataclass(frozen=True)
class HeadSide:
    """The head of one side, the file or the model: its class list, where known, and its layout."""

    num_classes: int
    class_names: tuple[str, ...]  # empty: unknown
    background: str | None  # first, last; None for a classifier
    agnostic: bool

    def box_rows(self) -> int:
        """The number of rows of bbox_pred."""
        return 4 if self.agnostic else 4 * (self.num_classes + self.first_row())

    def first_row(self) -> int:
        """The row of class 0."""
        return 1 if self.background == "first" else 0

    def background_row(self) -> int:
        """The row of the background class in cls_score."""
        return 0 if self.background == "first" else self.num_classes


def head_part(key: str) -> HeadPart | None:
    """Which part of a class-wise head a state-dict key belongs to; None for all other keys."""
    found = _HEAD.match(key)
    return cast(HeadPart, found[1] or found[2]) if found else None


def describe_head(
    state_dict: Mapping[str, Tensor], class_names: Sequence[str] = (), background: str | None = None
) -> HeadSide | None:
    """The head that a state dict has, its layout read from the shapes where `background` does not tell it.

    Names are taken only when there is one for every class. Returns None for a state dict without a head.
    """
    rows = {head_part(key): len(tensor) for key, tensor in state_dict.items() if head_part(key) and tensor.dim()}
    names = tuple(class_names)
    if "cls_score" in rows:
        classes, box_rows = rows["cls_score"] - 1, rows.get("bbox_pred", 0)
        if background is None:
            background = "first" if box_rows == 4 * (classes + 1) else "last"
        agnostic = box_rows == 4 and not (classes == 1 and background == "last")
        return HeadSide(classes, names if len(names) == classes else (), background, agnostic)
    if "fc" in rows:
        return HeadSide(rows["fc"], names if len(names) == rows["fc"] else (), None, False)
    return None


def same_classes(source: HeadSide, target: HeadSide) -> dict[int, int]:
    """Labels of the file -> labels of the model.

    By name where both sides name their classes (a name that occurs twice on either side matches nothing), what is left
    by meaning: upper or lower case, "_" for a blank and VOC's names of COCO's classes do not matter. Else by position,
    if the number of classes agrees; else nothing.
    """
    if source.class_names and target.class_names:
        if source.class_names == target.class_names:
            return {label: label for label in range(target.num_classes)}
        there, here = _labels_by_name(source.class_names), _labels_by_name(target.class_names)
        matched = {there[name]: here[name] for name in here if name in there}
        return matched | _same_meaning(source.class_names, target.class_names, matched)
    if source.num_classes == target.num_classes:
        return {label: label for label in range(target.num_classes)}
    return {}


def map_rows(part: HeadPart, source: HeadSide, target: HeadSide, labels: Mapping[int, int]) -> RowMap | None:
    """The rows that `part` of the head can take over, None when there are none.

    The background is taken over together with at least one class: alone, among new classes, it means nothing.
    """
    if part == "bbox_pred" and (source.agnostic or target.agnostic):
        alike = source.box_rows() == target.box_rows()  # one class with the background last has four rows as well
        return RowMap(list(range(4)), list(range(4))) if alike else None
    if not labels:
        return None
    from_rows = [label + source.first_row() for label in labels]
    to_rows = [label + target.first_row() for label in labels.values()]
    if part == "cls_score":
        return RowMap([*from_rows, source.background_row()], [*to_rows, target.background_row()])
    if part == "bbox_pred":
        return RowMap(_groups_of_four(from_rows), _groups_of_four(to_rows))
    return RowMap(from_rows, to_rows)


def why_no_rows(part: HeadPart, source: HeadSide, target: HeadSide) -> str:
    """The reason why `map_rows` found nothing to take over."""
    if part == "bbox_pred" and source.agnostic != target.agnostic:
        kinds = ["class-agnostic" if side.agnostic else "per class" for side in (source, target)]
        return f"box regression is {kinds[0]} in the file, {kinds[1]} in the model"
    if source.class_names and target.class_names:
        return f"no class in common: the file has {shorten(source.class_names, 3)}"
    return (
        f"{source.num_classes} classes in the file, {target.num_classes} in the model, "
        "and not both sides name them: no row could be matched"
    )


def _same_meaning(source: Sequence[str], target: Sequence[str], matched: Mapping[int, int]) -> dict[int, int]:
    """Labels of the file -> labels of the model for names that differ but mean the same, those in `matched` aside."""
    there, here = (_labels_by_name([_meaning(name) for name in names]) for names in (source, target))
    taken = set(matched.values())
    pairs = {there[name]: here[name] for name in here if name in there}
    return {label: own for label, own in pairs.items() if label not in matched and own not in taken}


def _meaning(name: str) -> str:
    """A class name as names are compared."""
    plain = " ".join(name.replace("_", " ").lower().split())
    return _ALIASES.get(plain.replace(" ", ""), plain)


def _labels_by_name(names: Sequence[str]) -> dict[str, int]:
    counts = Counter(names)
    return {name: label for label, name in enumerate(names) if counts[name] == 1}


def _groups_of_four(groups: Sequence[int]) -> list[int]:
    return [4 * group + side for group in groups for side in range(4)]
