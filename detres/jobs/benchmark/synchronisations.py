"""Where a step on a GPU makes the host wait: torch's own warnings, counted."""

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detres.jobs.benchmark.timing import Side

_MOST_PLACES = 10


def count_synchronisations(sides: Mapping[str, Side]) -> dict[str, Any]:
    """For each side, how often a step waits for the GPU, and at which lines of code most often.

    torch.cuda.set_sync_debug_mode warns of every wait that torch itself asks for (values read on the host, sizes that
    depend on values, copies that are not asynchronous).
    """
    return {name: _count(side) for name, side in sides.items()}


def _count(side: Side) -> dict[str, Any]:
    side.step(lambda _phase: None)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            side.step(lambda _phase: None)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return summarise([each for each in caught if "synchroniz" in str(each.message)])


def summarise(caught: list[warnings.WarningMessage]) -> dict[str, Any]:
    """How many there were, and the places with the most."""
    places = Counter(f"{Path(each.filename).name}:{each.lineno}" for each in caught)
    return {"count": len(caught), "places": dict(places.most_common(_MOST_PLACES))}
