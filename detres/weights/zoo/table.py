"""All entries of the zoo, and finding one by its name."""

import difflib
from functools import cache

from detres.weights.report import WeightsError
from detres.weights.zoo import detectron2, mmdetection, msra, timm, torchvision
from detres.weights.zoo.entry import Entry


def entries(filter: str = "") -> list[Entry]:
    """The entries whose name, data set, kind or configuration hold every word of `filter`, upper or lower case."""
    words = filter.lower().split()
    return [entry for entry in _all().values() if all(word in _searched(entry) for word in words)]


def find(name: str) -> Entry:
    """The entry of that name. Raises WeightsError that names the nearest ones."""
    entry = _all().get(name)
    if entry is not None:
        return entry
    holding = [known for known in _all() if name.lower() in known.lower()]
    near = [*holding, *difflib.get_close_matches(name, _all(), n=3, cutoff=0.5)][:3]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise WeightsError(f"zoo:{name}: the zoo has no checkpoint of that name; {hint}`detres zoo` lists all")


@cache
def _all() -> dict[str, Entry]:
    publishers = (detectron2, msra, mmdetection, torchvision, timm)
    return {entry.name: entry for publisher in publishers for entry in publisher.entries()}


def _searched(entry: Entry) -> str:
    return " ".join((entry.name, entry.dataset, entry.kind, entry.config)).lower()
