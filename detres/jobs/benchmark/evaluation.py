"""COCO's evaluation compared: pycocotools as its own page shows it, against detres's, from a detector's output on."""

import contextlib
import gc
import io
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detres.evaluation.coco import coco_precision_recall, evaluate_coco
from detres.evaluation.result_arrays import ResultArrays
from detres.jobs.benchmark.agreement import DifferentWork
from detres.jobs.benchmark.conditions import OURS, Conditions
from detres.jobs.benchmark.evaluation_set import EvaluationSet, make_set
from detres.jobs.benchmark.timing import ratio, summary

NUM_IMAGES = 5000
_SIDES = ("pycocotools", OURS)


class _Turn(NamedTuple):
    """One evaluation.

    numbers     the twelve in COCO's order; -1 where there is none
    seconds     by part: making rows or arrays of the detections, and all that follows
    evaluation  the COCOeval that was used, of pycocotools
    """

    numbers: list[float]
    seconds: dict[str, float]
    evaluation: Any = None


def compare_evaluations(num_images: int, conditions: Conditions) -> dict[str, Any]:
    """Seconds of both sides in turns, after one unmeasured round, from lists of Detections to the twelve numbers.

    The first round checks that precision and recall are equal everywhere to the last bit, every later one that the
    twelve numbers are. Raises DifferentWork where they are not.
    """
    judged = make_set(num_images)
    sizes = judged.counts()
    progress, repeats = conditions.progress, conditions.repeats
    progress(f"eval, {judged.source}: {', '.join(f'{count} {what}' for what, count in sizes.items())}")
    memory, same = _first_round(judged)
    turns: dict[str, list[_Turn]] = {name: [] for name in _SIDES}
    for i in range(1, repeats + 1):
        for name, side in zip(_SIDES, (_theirs, _ours), strict=True):
            conditions.take_allocator(name)
            gc.collect()
            turns[name].append(side(judged)._replace(evaluation=None))
        _check_numbers(*(turns[name][-1] for name in _SIDES))
        latest = ", ".join(f"{name} {sum(each[-1].seconds.values()):.3f} s" for name, each in turns.items())
        progress(f"  {i}/{repeats}: {latest}")
    seconds = {name: [sum(turn.seconds.values()) for turn in each] for name, each in turns.items()}
    return {
        "batch_size": num_images,
        "input": judged.source,
        **sizes,
        "same": same,
        "sides": {name: {"allocator": conditions.allocator_of(name)} for name in _SIDES},
        "seconds": {name: summary(each) for name, each in seconds.items()},
        "ratio": ratio(*seconds.values()),
        "parts": {name: _medians(each) for name, each in turns.items()},
        "memory_mib": memory,
    }


def _medians(turns: list[_Turn]) -> dict[str, float]:
    return {part: statistics.median(turn.seconds[part] for turn in turns) for part in turns[0].seconds}


def _ours(judged: EvaluationSet) -> _Turn:
    started = time.perf_counter()
    arrays = ResultArrays.from_detections(judged.detections, judged.image_ids, judged.category_ids)
    ready = time.perf_counter()
    metrics = evaluate_coco(judged.truth, arrays, backend="numpy").metrics
    seconds = {"conversion": ready - started, "evaluation": time.perf_counter() - ready}
    return _Turn([-1.0 if value is None else value for value in metrics.values()], seconds)


def _theirs(judged: EvaluationSet) -> _Turn:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    started = time.perf_counter()
    pairs = zip(judged.detections, judged.image_ids, strict=True)
    rows = [row for found, image_id in pairs for row in found.to_coco(image_id, judged.category_ids)]
    ready = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = judged.truth
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    seconds = {"conversion": ready - started, "evaluation": time.perf_counter() - ready}
    return _Turn(evaluation.stats.tolist(), seconds, evaluation)


def _first_round(judged: EvaluationSet) -> tuple[dict[str, float | None], dict[str, Any]]:
    """MiB that each side needs beyond its input, and how much is equal."""
    # Ours first: what the other gives back may stay with the process, and would hide what is taken after it.
    ours, our_memory = _with_memory(_ours, judged)
    theirs, their_memory = _with_memory(_theirs, judged)
    _check_numbers(theirs, ours)
    arrays = ResultArrays.from_detections(judged.detections, judged.image_ids, judged.category_ids)
    tables = coco_precision_recall(judged.truth, arrays, backend="numpy")
    for name, table in zip(("precision", "recall"), tables, strict=True):
        different = int(np.sum(table != theirs.evaluation.eval[name]))
        if different:
            raise DifferentWork(f"{name}: {different} of {table.size} values differ between pycocotools and detres")
    same = {"precisions and recalls": {"identical": sum(table.size for table in tables)}}
    return dict(zip(_SIDES, (their_memory, our_memory), strict=True)), same


def _check_numbers(theirs: _Turn, ours: _Turn) -> None:
    if theirs.numbers != ours.numbers:
        raise DifferentWork(f"COCO's numbers: pycocotools computes {theirs.numbers}, detres {ours.numbers}")


def _with_memory(side: Callable[[EvaluationSet], _Turn], judged: EvaluationSet) -> tuple[_Turn, float | None]:
    """A turn, and MiB by which the process grew meanwhile; None where the system does not tell (other than Linux)."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
        turn = side(judged)
        return turn, _resident("VmHWM") - before
    except OSError:
        return side(judged), None


def _resident(name: str) -> float:
    """VmRSS or its peak VmHWM, in MiB."""
    found = re.search(rf"^{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")
