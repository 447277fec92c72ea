"""Boxes that mark one object twice.

Shapes: B boxes of a split, P pairs of them.
"""

import numpy as np

from detres.jobs.doctor.records import RawBoxes

NEAR = 0.95
"""The IoU from which on two boxes of a class are near duplicates. Two pairs of VOC2007's 26,868 boxes reach it."""


def near_repeats(boxes: RawBoxes, among: np.ndarray) -> np.ndarray:
    """Which boxes, as a mask (B,), have an IoU of at least NEAR with an earlier one of their image and class.

    Only boxes `among` (B,) count. Sorted by image, class and left side, the two of a pair are near each other: left
    sides are no farther apart than (1 - NEAR) of the left one's width. So each box is compared with the next one, the
    one after that and so on, all boxes at once, until no pair is left that may qualify.
    """
    rows = np.flatnonzero(among)
    xyxy = boxes.boxes_xyxy
    rows = rows[np.lexsort((xyxy[rows, 0], boxes.labels[rows], boxes.images[rows]))]
    reach = (xyxy[rows, 2] - xyxy[rows, 0]) * (1 - NEAR) + 1e-6  # for the rounding
    mask = np.zeros(len(boxes), dtype=bool)
    first = np.arange(len(rows))
    for step in range(1, len(rows)):
        first = first[first + step < len(rows)]
        a, b = rows[first], rows[first + step]
        same = (boxes.images[a] == boxes.images[b]) & (boxes.labels[a] == boxes.labels[b])
        same &= xyxy[b, 0] - xyxy[a, 0] <= reach[first]
        first, a, b = first[same], a[same], b[same]
        if not len(first):
            break
        found = paired_ious(xyxy[a], xyxy[b]) >= NEAR
        mask[np.maximum(a, b)[found]] = True
    return mask


def partner_of(boxes: RawBoxes, row: int, among: np.ndarray, same_class: bool) -> tuple[int, float]:
    """The box `among` (B,) that a box repeats: that of its image (and class, or another one) of the greatest IoU."""
    is_same = boxes.labels == boxes.labels[row]
    candidates = among & (boxes.images == boxes.images[row]) & (is_same if same_class else ~is_same)
    candidates[row] = False
    others = np.flatnonzero(candidates)
    xyxy = boxes.boxes_xyxy
    ious = paired_ious(xyxy[others], np.broadcast_to(xyxy[row], (len(others), 4)))
    best = int(ious.argmax())
    return int(others[best]), float(ious[best])


def paired_ious(first_xyxy: np.ndarray, second_xyxy: np.ndarray) -> np.ndarray:
    """The IoU (P,) of each pair of boxes (P, 4), all of positive size."""
    low = np.maximum(first_xyxy[:, :2], second_xyxy[:, :2])
    high = np.minimum(first_xyxy[:, 2:], second_xyxy[:, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first_xyxy, second_xyxy)]
    ious: np.ndarray = shared / (areas[0] + areas[1] - shared)
    return ious
