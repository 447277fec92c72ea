"""A contest: two sides that were seen to do the same work, and what comes of timing them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detres.jobs.benchmark.agreement import same_operations
from detres.jobs.benchmark.ceiling import Ceilings
from detres.jobs.benchmark.conditions import Conditions
from detres.jobs.benchmark.parts import count_parts, measure_parts, total
from detres.jobs.benchmark.timing import Side, compare

_MOST_PART_PASSES = 3
_UNCOUNTED = ("RoI pooling",)  # gathering values is no arithmetic, however it is written


@dataclass(frozen=True)
class Contest:
    """The two sides, the opponent first.

    about      what the report says of the work: sizes, input, how closely the sides agree
    plain      our side eager, float32 and without options, whose operations are counted
    may_save   whether it may need fewer operations, because the gradients of both were compared
    """

    sides: Mapping[str, Side]
    about: dict[str, Any]
    plain: Side
    may_save: bool = False

    def run(self, conditions: Conditions, ceilings: Ceilings) -> dict[str, Any]:
        """Seconds, ratio, parts and the shares of the ceiling. Raises DifferentWork where the operations differ."""
        operations = {
            name: _counted(side)
            for name, side in zip(self.sides, (next(iter(self.sides.values())), self.plain), strict=True)
        }
        theirs, ours = (total(parts) for parts in operations.values())
        same = self.about["same"] | {"operations": same_operations(theirs, ours, self.may_save)}
        precisions = sorted({side.settings["precision"] for side in self.sides.values()})
        _measure(precisions, ceilings)
        figures = {
            **self.about,
            "same": same,
            "sides": describe_sides(self.sides),
            **compare(self.sides, conditions.repeats, conditions.device, conditions.progress),
            "parts": measure_parts(self.sides, min(conditions.repeats, _MOST_PART_PASSES), conditions.device),
        }
        _measure(precisions, ceilings)
        return figures | ceiling_shares(self.sides, figures, operations, ceilings)


def _measure(precisions: Sequence[str], ceilings: Ceilings) -> None:
    for precision in precisions:
        ceilings.measure(precision)


def _counted(side: Side) -> dict[str, float]:
    return {part: count for part, count in count_parts(side).items() if part not in _UNCOUNTED}


def describe_sides(sides: Mapping[str, Side]) -> dict[str, dict[str, str]]:
    """How each side computes, as a report names it."""
    return {name: {**side.settings, "allocator": side.allocator} for name, side in sides.items()}


def ceiling_shares(
    sides: Mapping[str, Side],
    figures: Mapping[str, Any],
    operations: Mapping[str, Mapping[str, float]],
    ceilings: Ceilings,
) -> dict[str, Any]:
    """Each side's operations in a step by part, and which share of its number format's ceiling it reaches with them."""
    of_step, of_parts = {}, {}
    for name, side in sides.items():
        precision = side.settings["precision"]
        of_step[name] = ceilings.share(total(operations[name]), figures["seconds"][name]["median"], precision)
        of_parts[name] = {
            part: ceilings.share(operations[name][part], seconds, precision)
            for part, seconds in figures["parts"][name].items()
            if part in operations[name] and seconds > 0
        }
    return {"operations": operations, "ceiling_share": of_step, "ceiling_share_of_parts": of_parts}
