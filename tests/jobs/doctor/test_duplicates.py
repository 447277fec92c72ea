"""Near duplicates: the threshold by hand, and all pairs by a plain computation."""

import numpy as np

from detres.jobs.doctor.duplicates import near_repeats, partner_of
from detres.jobs.doctor.records import RawBoxes, no_boxes, pack_boxes


def _boxes(rows: list[tuple[int, int, list[float]]]) -> RawBoxes:
    """Of (image, label, corners)."""
    count = len(rows)
    return pack_boxes(
        [row[2] for row in rows], [row[0] for row in rows], [row[1] for row in rows], [False] * count, [*range(count)]
    )


def _repeats(boxes: RawBoxes) -> list[bool]:
    found: list[bool] = near_repeats(boxes, np.ones(len(boxes), dtype=bool)).tolist()
    return found


def test_no_boxes() -> None:
    assert _repeats(no_boxes()) == []


def test_the_threshold() -> None:
    """19 of 20 columns are an IoU of 0.95, 18 of 19 less; the later box is the repetition."""
    assert _repeats(_boxes([(0, 0, [0, 0, 20, 10]), (0, 0, [0, 0, 19, 10])])) == [False, True]
    assert _repeats(_boxes([(0, 0, [1, 0, 20, 10]), (0, 0, [0, 0, 20, 10])])) == [False, True]
    assert _repeats(_boxes([(0, 0, [0, 0, 19, 10]), (0, 0, [0, 0, 18, 10])])) == [False, False]
    assert _repeats(_boxes([(0, 0, [0, 0, 20, 10]), (0, 1, [0, 0, 19, 10])])) == [False, False]
    assert _repeats(_boxes([(0, 0, [0, 0, 20, 10]), (1, 0, [0, 0, 19, 10])])) == [False, False]


def test_only_those_that_count() -> None:
    boxes = _boxes([(0, 0, [0, 0, 20, 10]), (0, 0, [0, 0, 19, 10]), (0, 0, [0, 0, 20, 10])])
    assert near_repeats(boxes, np.array([True, False, True])).tolist() == [False, False, True]
    assert near_repeats(boxes, np.array([True, False, False])).tolist() == [False] * 3


def test_against_all_pairs() -> None:
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 4, (120, 2)) * 30 + generator.normal(0, 0.4, (120, 2))
    sides = 60 + generator.normal(0, 0.4, (120, 2))
    pairs = zip(corners, sides, strict=True)
    rows = [(k % 3, k % 2, [*corner, *(corner + side)]) for k, (corner, side) in enumerate(pairs)]
    expected = [False] * len(rows)
    for b, (image, label, second) in enumerate(rows):
        for other_image, other_label, first in rows[:b]:
            width = min(first[2], second[2]) - max(first[0], second[0])
            height = min(first[3], second[3]) - max(first[1], second[1])
            shared = max(width, 0) * max(height, 0)
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
            is_near = shared / (sum(areas) - shared) >= 0.95
            expected[b] |= is_near and (image, label) == (other_image, other_label)
    assert _repeats(_boxes(rows)) == expected and 5 < sum(expected) < 115


def test_the_partner() -> None:
    boxes = _boxes([(0, 0, [0, 0, 20, 10]), (0, 0, [0, 0, 19, 10]), (0, 1, [0, 0, 10, 10]), (1, 0, [0, 0, 20, 10])])
    everything = np.ones(4, dtype=bool)
    assert partner_of(boxes, 1, everything, same_class=True) == (0, 0.95)
    assert partner_of(boxes, 0, everything, same_class=False) == (2, 0.5)
