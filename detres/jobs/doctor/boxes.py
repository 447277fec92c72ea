"""What is wrong with boxes.

Shapes: N images, B boxes of a split.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from detres.data.annotations import box_faults
from detres.jobs.doctor.duplicates import near_repeats, partner_of
from detres.jobs.doctor.findings import MAX_EXAMPLES, Example, Findings, Shot
from detres.jobs.doctor.records import NO_SIZE, Split

UNUSABLE = ("boxes_not_finite", "boxes_without_size", "boxes_outside")
_REPEATED = ("boxes_twice", "boxes_nearly_twice", "boxes_of_two_classes")
OVERHANG = 1.0  # pixels beyond the border from which on a box counts as partly outside
TINY = 3.0  # pixels

Faults = dict[str, np.ndarray]


def find_faults(split: Split, sizes_hw: np.ndarray, smallest_scale: np.ndarray) -> Faults:
    """One mask (B,) for each check of boxes; those that are UNUSABLE, as the readers count them, are in no other.

    sizes_hw        (N, 2) of the images
    smallest_scale  (N,) the least factor by which the training transforms resize each image
    """
    boxes = split.boxes
    sizes = sizes_hw[boxes.images].reshape(-1, 2)
    masks = dict(zip(UNUSABLE, box_faults(boxes.corners, sizes + int(boxes.inclusive)).values(), strict=True))
    usable = ~np.any(list(masks.values()), axis=0)
    scale = np.minimum(1.0, smallest_scale[boxes.images])
    with np.errstate(invalid="ignore", over="ignore"):
        xyxy = boxes.boxes_xyxy
        sides = (xyxy[:, 2:] - xyxy[:, :2]).min(axis=1)
        masks["boxes_partly_outside"] = usable & (overhang(xyxy, sizes) > OVERHANG)
        masks["tiny_boxes"] = usable & (sides * scale < TINY) & (sizes[:, 0] < NO_SIZE)
        rounded = np.round(np.nan_to_num(xyxy, posinf=0, neginf=0), 2)
    place = np.column_stack([boxes.images, rounded])
    twice = _repeats(np.column_stack([place, boxes.labels]), usable)
    masks["boxes_twice"] = twice
    masks["boxes_nearly_twice"] = near_repeats(boxes, usable & ~twice)
    masks["boxes_of_two_classes"] = _repeats(place, usable & ~twice)
    return masks


def usable_boxes(faults: Faults) -> np.ndarray:
    """Which boxes (B,) can be learned at all."""
    found: np.ndarray = ~np.any([faults[key] for key in UNUSABLE], axis=0)
    return found


def overhang(boxes_xyxy: np.ndarray, sizes_hw: np.ndarray) -> np.ndarray:
    """By how many pixels each box (B, 4) passes the border of its image (B, 2), at its worst side; at most 0 inside."""
    over = np.concatenate([-boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - sizes_hw[:, ::-1]], axis=1)
    worst: np.ndarray = over.max(axis=1)
    return worst


def check_boxes(splits: Sequence[Split], faults: Sequence[Faults], sizes: Sequence[np.ndarray], on_bad_box: str,
                findings: Findings) -> None:  # fmt: skip
    """Report the faults, the worst first; what training refuses to read is an error."""
    for split, found, sizes_hw in zip(splits, faults, sizes, strict=True):
        for key, mask in found.items():
            rows = np.flatnonzero(mask)
            rows = rows[np.argsort(-_badness(key, split, rows, sizes_hw), kind="stable")]
            severity = "error" if key in UNUSABLE and on_bad_box == "error" else None
            examples = _worst_of(key, split, rows[:MAX_EXAMPLES], sizes_hw, found)
            findings.add_all(key, len(rows), examples, severity)  # type: ignore[arg-type]
            findings.by_key[key].of = (findings.by_key[key].of or 0) + len(split.boxes)


def examples_of(split: Split, rows: np.ndarray, more: str = "") -> Iterator[Example]:
    """An example for each of some boxes; `more` ends the text."""
    for row in rows.tolist():
        image = int(split.boxes.images[row])
        found = split.images[image]
        text = f"{split.name}: {describe_box(split, row)} in image {found.id!r} ({found.path}){more}"
        yield Example(text, shots_of(split, [row], image))


def _worst_of(key: str, split: Split, rows: np.ndarray, sizes_hw: np.ndarray, faults: Faults) -> Iterator[Example]:
    """An example for each of some boxes, with the number that its check goes by."""
    badness = _badness(key, split, rows, sizes_hw).tolist()
    if key in _REPEATED:
        yield from _repeats_of(key, split, rows, faults)
        return
    for row, value in zip(rows, badness, strict=True):
        more = {
            "boxes_partly_outside": f"; {value:.1f} pixels beyond the border",
            "tiny_boxes": f"; its shorter side has {-value:.1f} pixels before resizing",
        }
        yield from examples_of(split, np.array([row]), more.get(key, ""))


def _repeats_of(key: str, split: Split, rows: np.ndarray, faults: Faults) -> Iterator[Example]:
    """An example for each of some boxes, with the box that it repeats."""
    usable = usable_boxes(faults)
    for row in rows.tolist():
        other, iou = partner_of(split.boxes, row, usable, same_class=key != "boxes_of_two_classes")
        (example,) = examples_of(split, np.array([row]), f"; IoU {iou:.2f} with {describe_box(split, other)}")
        yield example._replace(shots=shots_of(split, [row, other], int(split.boxes.images[row])))


def describe_box(split: Split, row: int) -> str:
    """A box in words, with the file's numbers."""
    corners = ", ".join(f"{value:.6g}" for value in split.boxes.corners[row])
    what = "object" if split.boxes.inclusive else "annotation"
    return f"{split.class_name(split.boxes.labels[row])!r} ({corners}), {what} number {split.boxes.entries[row]}"


def shots_of(split: Split, rows: Sequence[int], image: int) -> tuple[Shot, ...]:
    """The picture of an image with the boxes `rows` marked and its others."""
    boxes = split.boxes
    others = [row for row in np.flatnonzero(boxes.images == image).tolist() if row not in rows][:200]
    found = split.images[image]
    captions = [split.class_name(boxes.labels[row]) for row in rows]
    return (
        Shot(found.path, found.size_hw, boxes.boxes_xyxy[list(rows)].tolist(), captions,
             boxes.boxes_xyxy[others].tolist()),
    )  # fmt: skip


def _badness(key: str, split: Split, rows: np.ndarray, sizes_hw: np.ndarray) -> np.ndarray:
    """What orders the cases of a check, the worst being the greatest."""
    boxes = split.boxes.boxes_xyxy[rows]
    if key == "boxes_partly_outside":
        return overhang(boxes, sizes_hw[split.boxes.images[rows]])
    if key == "tiny_boxes":
        smallest: np.ndarray = -(boxes[:, 2:] - boxes[:, :2]).min(axis=1)
        return smallest
    return np.zeros(len(rows))


def _repeats(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which rows of `keys` (B, C) repeat an earlier one, as a mask (B,); only rows `among` (B,) count."""
    rows = np.flatnonzero(among)
    mask = np.zeros(len(among), dtype=bool)
    if len(rows):
        mask[rows] = True
        mask[rows[np.unique(keys[rows], axis=0, return_index=True)[1]]] = False
    return mask
