"""Renaming the keys of a state dict in both directions from one table of pairs."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from detres.weights.report import WeightsError, shorten

_PLACEHOLDERS = {
    "leaf": "weight|bias|running_mean|running_var|num_batches_tracked",  # what a layer holds
    "affine": "weight|bias",
}
_NUMBER = r"\d+"  # of every other placeholder: {i}, {block}
_SHOWN = 100


class Renaming:
    """Pairs of names, theirs and ours, such as ("res2.{i}.conv1.{leaf}", "layer1.{i}.conv1.{leaf}").

    Both names of a pair have the same placeholders: {leaf} stands for weight, bias, running_mean, ..., {affine} for
    weight and bias, any other for a number. The first pair that matches a whole key renames it.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        pairs = list(pairs)
        self._to_ours = [(_pattern(theirs), _template(ours)) for theirs, ours in pairs]
        self._to_theirs = [(_pattern(ours), _template(theirs)) for theirs, ours in pairs]

    def to_ours(self, state: Mapping[str, Tensor], what: str, ignorable: Iterable[str] = ()) -> dict[str, Tensor]:
        """Their state dict under our names, without the keys that match one of `ignorable` from their start.

        Raises WeightsError that lists the keys without a name; `what` says whose they are.
        """
        unneeded = [re.compile(pattern) for pattern in ignorable]
        kept = {key: tensor for key, tensor in state.items() if not any(p.match(key) for p in unneeded)}
        return _rename(kept, self._to_ours, what)

    def to_theirs(self, state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
        """The inverse of to_ours."""
        return _rename(state, self._to_theirs, what)


def _rename(state: Mapping[str, Tensor], table: list[tuple[re.Pattern[str], str]], what: str) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    left_over = []
    for key, tensor in state.items():
        name = next((found.expand(template) for pattern, template in table if (found := pattern.fullmatch(key))), None)
        if name is None or name in renamed:
            left_over.append(key)
        else:
            renamed[name] = tensor
    if left_over:
        raise WeightsError(
            f"{what}: {len(left_over)} of {len(state)} tensors have no place in it: {shorten(left_over, _SHOWN)}"
        )
    return renamed


def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", name)
    text = "".join(
        re.escape(part) if i % 2 == 0 else f"(?P<{part}>{_PLACEHOLDERS.get(part, _NUMBER)})"
        for i, part in enumerate(parts)
    )
    return re.compile(text)


def _template(name: str) -> str:
    return re.sub(r"\{(\w+)\}", r"\\g<\1>", name)
