"""Precision and recall as COCOeval.accumulate computes them, for all classes and thresholds at once.

Precision falls with every false detection, and COCO takes the best that any later detection has: so it is wanted only
at true ones. The events gone through here are the matched detections, a small part of all; how many false ones stand
before each follows from counts.

Shapes: T IoU thresholds, R recalls, K classes, A ranges of area, M limits, D detections, G objects, E events.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detres.evaluation.coco_matching import NUM_THRESHOLDS, ignored_lanes, match
from detres.evaluation.coco_tables import AREA_RANGES, RECALLS, Found, Objects
from detres.evaluation.ordering import places_in_runs, stable_order, starts_of_runs


class _Judged(NamedTuple):
    """Detections (D,), sorted by class and within it by falling score, and what became of them.

    classes         (D,) int64
    areas           (D,) float64
    ranks           (D,) int64: how many of the same image and class have a higher score
    taken, ignored  (D,) uint64: see Matches
    """

    classes: np.ndarray
    areas: np.ndarray
    ranks: np.ndarray
    taken: np.ndarray
    ignored: np.ndarray


class _Events(NamedTuple):
    """Matched detections in one range of areas, by threshold, then in the order of the detections.

    lanes   (E,) int64: t * K + class
    rows    (E,) int64: which detection
    true    (E,) bool: its object counts
    inside  (E,) bool: its own area is in the range, so that it would be false without its object
    """

    lanes: np.ndarray
    rows: np.ndarray
    true: np.ndarray
    inside: np.ndarray


def precision_recall(
    truth: Objects, found: Found, num_classes: int, limits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """COCOeval's precision (T, R, K, A, M) and recall (T, K, A, M), -1 without ground truth; `limits` rise.

    Raises UndefinedOverlap where boxes have no IoU in double precision.
    """
    judged = _judge(truth, found, num_classes, limits[-1])
    num_objects = _count_objects(truth, num_classes)
    precision = np.full((NUM_THRESHOLDS, len(RECALLS), num_classes, len(AREA_RANGES), len(limits)), -1.0)
    recall = np.full((NUM_THRESHOLDS, num_classes, len(AREA_RANGES), len(limits)), -1.0)
    for a, counts in enumerate(num_objects):
        inside = (judged.areas >= AREA_RANGES[a][0]) & (judged.areas <= AREA_RANGES[a][1])
        events = _events(judged, a, inside, num_classes)
        some, needed = counts > 0, _needed(counts)
        for m, limit in enumerate(limits):
            reached, best = _curves(_limited(events, judged, limit), judged, inside & (judged.ranks < limit), needed)
            precision[:, :, some, a, m] = best.transpose(0, 2, 1)[:, :, some]
            recall[:, some, a, m] = reached[:, some] / counts[some]
    return precision, recall


def _judge(truth: Objects, found: Found, num_classes: int, limit: int) -> _Judged:
    """Match the best `limit` detections of every image and class."""
    order = stable_order(found.classes, -found.scores, found.images)
    classes = found.classes[order]
    groups, truth_groups = found.images[order] * num_classes + classes, truth.images * num_classes + truth.classes
    by_group, truth_by_group = stable_order(groups), stable_order(truth_groups)
    starts = starts_of_runs(groups[by_group])
    places = places_in_runs(np.diff(starts, append=len(groups)))
    tried = by_group[places < limit]
    matches = match(
        found.boxes_xywh[order[tried]],
        groups[tried],
        Objects(*(column[truth_by_group] for column in truth)),
        truth_groups[truth_by_group],
    )
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[by_group] = places
    taken, ignored = np.zeros((2, len(groups)), dtype=np.uint64)
    taken[tried], ignored[tried] = matches
    return _Judged(classes, found.areas[order], ranks, taken, ignored)


def _count_objects(truth: Objects, num_classes: int) -> np.ndarray:
    """How many objects of each class count in each range of areas (A, K)."""
    ignored = ignored_lanes(truth)
    lanes = [np.uint64(1 << a * NUM_THRESHOLDS) for a in range(len(AREA_RANGES))]
    return np.stack([np.bincount(truth.classes[(ignored & lane) == 0], minlength=num_classes) for lane in lanes])


def _needed(num_objects: np.ndarray) -> np.ndarray:
    """How many objects must be found for each recall (K, R), one at least."""
    counts, which = np.unique(num_objects, return_inverse=True)
    rows = [np.searchsorted(np.arange(1, count + 1) / max(count, 1), RECALLS, side="left") for count in counts]
    return 1 + np.array(rows, dtype=np.int64).reshape(len(counts), len(RECALLS))[which]


def _events(judged: _Judged, area_range: int, inside: np.ndarray, num_classes: int) -> _Events:
    shift, mask = np.uint64(area_range * NUM_THRESHOLDS), np.uint64((1 << NUM_THRESHOLDS) - 1)
    taken = judged.taken >> shift & mask
    matched = np.flatnonzero(taken)
    lanes = np.arange(NUM_THRESHOLDS, dtype=np.uint64)[:, None]
    thresholds, places = np.nonzero(taken[matched] >> lanes & np.uint64(1))
    rows = matched[places]
    ignored = judged.ignored[rows] >> (shift + thresholds.astype(np.uint64)) & np.uint64(1)
    return _Events(thresholds * num_classes + judged.classes[rows], rows, ignored == 0, inside[rows])


def _limited(events: _Events, judged: _Judged, limit: int) -> _Events:
    """The events of the best `limit` detections of every image and class."""
    kept = judged.ranks[events.rows] < limit
    return events if kept.all() else _Events(*(column[kept] for column in events))


def _curves(
    events: _Events, judged: _Judged, countable: np.ndarray, needed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many objects each threshold and class finds (T, K), and the best precision (T, K, R) from a recall on.

    countable  (D,) bool: detections that are false unless they are matched
    needed     (K, R) int64: see _needed
    """
    num_classes, num_recalls = needed.shape
    num_lanes = NUM_THRESHOLDS * num_classes
    true = np.flatnonzero(events.true)
    lanes, rows = events.lanes[true], events.rows[true]
    reached = np.bincount(lanes, minlength=num_lanes)
    starts = np.cumsum(reached) - reached
    num_true = (np.arange(1, len(true) + 1) - starts[lanes]).astype(np.float64)
    num_false = _running_count(countable, judged.classes, num_classes, rows)
    num_false -= _running_count(events.inside, events.lanes, num_lanes, true)
    precision = num_true / (num_false + num_true + np.spacing(1))
    wanted = np.tile(needed, (NUM_THRESHOLDS, 1))
    found = wanted <= reached[:, None]
    best = np.zeros(wanted.shape)
    if len(true):
        # From each recall to the next that is wanted; one that nothing lies between stands for itself.
        best[found] = np.maximum.reduceat(precision, (starts[:, None] + wanted - 1)[found])
    best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
    return reached.reshape(NUM_THRESHOLDS, -1), best.reshape(NUM_THRESHOLDS, num_classes, num_recalls)


def _running_count(flags: np.ndarray, runs: np.ndarray, num_runs: int, rows: np.ndarray) -> np.ndarray:
    """How many of `flags` (N,) are set up to each of `rows` within its run; `runs` (N,) rise from 0."""
    counts = np.append(0, np.cumsum(flags))
    before_runs = counts[np.searchsorted(runs, np.arange(num_runs))]
    return counts[rows + 1] - before_runs[runs[rows]]
