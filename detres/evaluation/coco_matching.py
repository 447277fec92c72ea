"""Which detection takes which object, as COCOeval.evaluateImg decides it, for all images, thresholds and sizes at once.

COCO matches greedily: within an image and a class (a group), detections take objects by falling score, each the object
that it overlaps most, one that is to be ignored only where no other fits. An object taken is gone, but a crowd is not.
This is decided anew for T IoU thresholds and A ranges of area, which differ in what overlaps enough and in what is
ignored. Here a decision is a bit, and the T x A cases are the lanes of a 64-bit word, lane a * T + t: a step of the
greedy loop is a few operations on words, taken for one pair of every group at a time.

Shapes: D detections, G objects, P pairs of the same group with an IoU of 0.5 or more, S moves.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from detres.evaluation.coco_tables import AREA_RANGES, IOU_THRESHOLDS, Objects
from detres.evaluation.ordering import places_in_runs, stable_order, starts_of_runs

NUM_THRESHOLDS = len(IOU_THRESHOLDS)
_PAIRS_AT_ONCE = 1 << 16  # so many, and what is computed of them, stay in the processor's cache
_NONE, _ALL = np.uint64(0), ~np.uint64(0)
# What COCOeval compares with: it lowers a threshold of 1 by as much as rounding may take from an IoU of 1.
_LEAST_IOU = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)


def _lanes(area_range: int, num_thresholds: int = NUM_THRESHOLDS) -> int:
    """The lanes of one range of areas and the lowest thresholds."""
    return ((1 << num_thresholds) - 1) << area_range * NUM_THRESHOLDS


# The lanes of an IoU that reaches the first n thresholds, for n from 0 on.
_REACHED = np.array(
    [sum(_lanes(a, n) for a in range(len(AREA_RANGES))) for n in range(NUM_THRESHOLDS + 1)], dtype=np.uint64
)


class UndefinedOverlap(ValueError):
    """Boxes so small or so large that double precision has no IoU for them."""


class Matches(NamedTuple):
    """Of every detection, the lanes (D,) uint64 in which it has an object, and those in which that one is ignored."""

    taken: np.ndarray
    ignored: np.ndarray


class _Pairs(NamedTuple):
    """Rows of the detections (P,), rising, and of the objects (P,); IoUs (P,)."""

    found: np.ndarray
    truth: np.ndarray
    iou: np.ndarray


class _Moves(NamedTuple):
    """What is tried, in this order within a group: pairs (S,), lanes (S,), and whether the object is ignored (S,)."""

    pair: np.ndarray
    lanes: np.ndarray
    ignored: np.ndarray


def ignored_lanes(truth: Objects) -> np.ndarray:
    """The lanes (G,) uint64 in which an object is ignored: a crowd in all, another where its area is out of range."""
    lanes = np.zeros(len(truth.areas), dtype=np.uint64)
    for a, (lowest, highest) in enumerate(AREA_RANGES):
        lanes[truth.crowd | (truth.areas < lowest) | (truth.areas > highest)] |= np.uint64(_lanes(a))
    return lanes


def match(boxes_xywh: np.ndarray, groups: np.ndarray, truth: Objects, truth_groups: np.ndarray) -> Matches:
    """Match detections (D, 4) to objects, both sorted by group (D,), (G,), detections within it by falling score.

    Of objects that are overlapped equally the last is taken. Raises UndefinedOverlap.
    """
    pairs = _preferred_first(_overlapping(boxes_xywh, groups, truth, truth_groups))
    moves = _moves(pairs, ignored_lanes(truth)[pairs.truth])
    return _play(moves, pairs, groups, truth.crowd)


def _overlapping(boxes_xywh: np.ndarray, groups: np.ndarray, truth: Objects, truth_groups: np.ndarray) -> _Pairs:
    """The pairs of a group whose IoU reaches the lowest threshold."""
    first, counts = _objects_of_groups(groups, truth_groups)
    objects = _columns(truth.boxes_xywh)
    blocks = [_Pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    for rows in _blocks(counts):
        of_found = np.repeat(np.arange(len(rows)), counts[rows])
        of_truth = np.repeat(first[rows], counts[rows]) + places_in_runs(counts[rows])
        meeting, iou = _pair_iou(_columns(boxes_xywh[rows]), of_found, objects, of_truth, truth.crowd)
        if np.isnan(iou).any():
            raise UndefinedOverlap("some boxes are too small or too large for their overlap to be computed")
        near = iou >= _LEAST_IOU[0]
        blocks.append(_Pairs(rows[of_found[meeting[near]]], of_truth[meeting[near]], iou[near]))
    return _Pairs(*map(np.concatenate, zip(*blocks, strict=True)))


def _objects_of_groups(groups: np.ndarray, truth_groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every detection the first object of its group (D,) and how many there are (D,)."""
    starts = starts_of_runs(groups)
    lengths = np.diff(starts, append=len(groups))
    first, last = (np.searchsorted(truth_groups, groups[starts], side=side) for side in ("left", "right"))
    return np.repeat(first, lengths), np.repeat(last - first, lengths)


def _blocks(counts: np.ndarray) -> Iterator[np.ndarray]:
    """The rows that have pairs, in blocks of about so many pairs as are computed at once."""
    rows = np.flatnonzero(counts)
    ends = np.cumsum(counts[rows])
    block = ends // _PAIRS_AT_ONCE
    return iter(np.split(rows, np.flatnonzero(np.diff(block)) + 1)) if len(rows) else iter(())


def _columns(boxes_xywh: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 and area (5, N)."""
    x1, y1, width, height = boxes_xywh.T
    with np.errstate(over="ignore"):
        return np.stack([x1, y1, width + x1, height + y1, width * height])


def _pair_iou(
    found: np.ndarray, of_found: np.ndarray, truth: np.ndarray, of_truth: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that meet at all, and their IoUs (a crowd's: over the detection alone) in the steps of maskApi.c."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
        width = np.minimum(found[2][of_found], truth[2][of_truth]) - np.maximum(found[0][of_found], truth[0][of_truth])
        height = np.minimum(found[3][of_found], truth[3][of_truth]) - np.maximum(found[1][of_found], truth[1][of_truth])
        meeting = np.flatnonzero((width > 0) & (height > 0))
        common = width[meeting] * height[meeting]
        area, of_truth = found[4][of_found[meeting]], of_truth[meeting]
        return meeting, common / np.where(crowd[of_truth], area, area + truth[4][of_truth] - common)


def _preferred_first(pairs: _Pairs) -> _Pairs:
    """The pairs of each detection by falling IoU, among equals the last object first."""
    shared = pairs.found[1:] == pairs.found[:-1]
    rows = np.flatnonzero(np.append(shared, False) | np.append(False, shared))
    order = np.arange(len(pairs.found))
    order[rows] = rows[np.lexsort((-pairs.truth[rows], -pairs.iou[rows], pairs.found[rows]))]
    return _Pairs(*(column[order] for column in pairs))


def _moves(pairs: _Pairs, ignored: np.ndarray) -> _Moves:
    """A detection tries its objects in turn, and after them once more those that are ignored."""
    reached = _REACHED[np.searchsorted(_LEAST_IOU, pairs.iou, side="right")]
    first, second = reached & ~ignored, reached & ignored
    tried, tried_again = np.flatnonzero(first), np.flatnonzero(second)
    pair = np.concatenate([tried, tried_again])
    again = np.arange(len(pair)) >= len(tried)
    order = stable_order(pairs.found[pair], again)
    return _Moves(pair[order], np.concatenate([first[tried], second[tried_again]])[order], again[order])


def _play(moves: _Moves, pairs: _Pairs, groups: np.ndarray, crowd: np.ndarray) -> Matches:
    """Make the moves: the first of every group at once, then the second, and so on."""
    found, truth = pairs.found[moves.pair], pairs.truth[moves.pair]
    starts = starts_of_runs(groups[found])
    turn = places_in_runs(np.diff(starts, append=len(found)))
    order = stable_order(turn)
    found, truth, lanes = found[order], truth[order], moves.lanes[order]
    counted, leaves = np.where(moves.ignored[order], _ALL, _NONE), np.where(crowd[truth], _NONE, _ALL)
    gone = np.zeros(len(crowd), dtype=np.uint64)
    taken, ignored = np.zeros((2, len(groups)), dtype=np.uint64)
    ends = np.cumsum(np.bincount(turn)).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        now = slice(start, end)
        d, g = found[now], truth[now]  # no detection and no object occurs twice here: each group has one move
        won = lanes[now] & ~(gone[g] | taken[d])
        gone[g] |= won & leaves[now]
        taken[d] |= won
        ignored[d] |= won & counted[now]
    return Matches(taken, ignored)
