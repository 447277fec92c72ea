"""What every format offers: names there and back, and what one of its files implies about the model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Implied:
    """What a foreign file says about the model that its tensors belong to.

    model            settings of `model` in a detres configuration, nested; those that are left out keep their defaults
    class_names      one per label 0 ... K-1, empty when nobody tells
    assumed          sentences: what the file does not tell and was taken for granted, with the setting that changes it
    eval_transforms  what an image goes through before the network, `data.eval_transforms`; None when nobody tells
    """

    model: dict[str, Any]
    class_names: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    eval_transforms: tuple[dict[str, Any], ...] | None = None


class Format(Protocol):
    """A toolkit's way to write weights; each module of this package but the helpers is one.

    NAME        what `detres convert --from` and `--to` call it
    BACKGROUND  where a detector's head has the row of the background: first or last
    IGNORABLE   regular expressions of the toolkit's keys that hold nothing a model needs (they match from the start)
    """

    NAME: str
    BACKGROUND: str
    IGNORABLE: tuple[str, ...]

    def recognises(self, keys: Collection[str]) -> bool:
        """Whether a state dict with these keys is one of this format's."""
        ...

    def to_detres(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors under detres's names; WeightsError lists the keys that have none."""
        ...

    def from_detres(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors under the toolkit's names; WeightsError lists the keys that have none."""
        ...

    def implied(self, state: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Implied:
        """What the file says: `state` has the toolkit's names, `extra` is what else the file holds (plain values)."""
        ...

    def instructions(self, model: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
        """Lines for whoever uses an exported file there: the toolkit's own settings that make it compute the same.

        `model`: the settings of `model` that the weights were trained with, nested and complete; `state` in detres's
        names. A line that begins with "not the same: " tells what the toolkit cannot do as the model does it.
        """
        ...
