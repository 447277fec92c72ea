"""Pictures that occur more than once: in several splits, or again in one.

Images of data.train that data.val holds out count as a split of their own.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from detres.jobs.doctor.findings import Example, Findings, Shot
from detres.jobs.doctor.images import Reading
from detres.jobs.doctor.records import Split

_KEEPING = ("train", "val", "test")  # a picture of several roles belongs to the last of them


class Place(NamedTuple):
    """An image: the position of its split, and its own in that."""

    split: int
    image: int


def find_groups(splits: Sequence[Split], readings: dict[str, Reading], by: str) -> list[list[Place]]:
    """The images of equal `by` ("file_hash" or "pixels"), where there are two or more.

    Splits that name the same data count once.
    """
    places: dict[bytes, list[Place]] = defaultdict(list)
    skipped = twins(splits)
    for number, split in enumerate(splits):
        if number in skipped:
            continue
        for image, found in enumerate(split.images):
            if (reading := readings.get(found.path)) is not None and (key := getattr(reading, by)):
                places[key].append(Place(number, image))
    return [group for group in places.values() if len(group) > 1]


def twins(splits: Sequence[Split]) -> dict[int, int]:
    """Splits that name the very data of an earlier one, by position."""
    found = {}
    for number, split in enumerate(splits):
        for earlier in range(number):
            if splits[earlier].settings == split.settings:
                found[number] = earlier
                break
    return found


def check_leaks(splits: Sequence[Split], readings: dict[str, Reading], findings: Findings) -> None:
    """Report pictures in several splits, and those that are there again in one."""
    for number, earlier in twins(splits).items():
        findings.add("same_split", f"data.{splits[number].name} is data.{splits[earlier].name}")
    for by, leak in (("file_hash", "leaks"), ("pixels", "pixel_leaks")):
        for group in find_groups(splits, readings, by):
            files = {readings[splits[place.split].images[place.image].path].file_hash for place in group}
            if by == "pixels" and len(files) == 1 and files != {b""}:
                continue  # reported as one file already
            findings.add_all(leak if _is_leak(splits, group) else "repeated_images", 1, [_example(splits, group)])


def to_remove(splits: Sequence[Split], readings: dict[str, Reading]) -> dict[Place, str]:
    """The images that a cleaned copy is to do without, and why.

    Those that are also in a split that measures go: from training, and from val where test has them. Where images of
    training are held out, all pictures but one of a kind go (a held out one stays, if there is any): which images
    are held out depends on which there are, and copies that are in training today may be held out of the cleaned set.
    """
    found: dict[Place, str] = {}
    for by in ("file_hash", "pixels"):
        for group in find_groups(splits, readings, by):
            ranks = [_KEEPING.index(_role(splits, place)) for place in group]
            for place, rank in zip(group, ranks, strict=True):
                if rank < max(ranks):
                    found[place] = "it is also in a split that measures"
            pool = [place for place in group if splits[place.split].held_out is not None]
            pool.sort(key=lambda place: _role(splits, place) == "train")  # stable
            for place in pool[1:]:
                kept = splits[pool[0].split].images[pool[0].image]
                found.setdefault(place, f"the same picture as image {kept.id!r}, and one of the two might be held out")
    return found


def _role(splits: Sequence[Split], place: Place) -> str:
    return splits[place.split].role_of(place.image)


def _is_leak(splits: Sequence[Split], group: Sequence[Place]) -> bool:
    return len({_role(splits, place) for place in group}) > 1


def _example(splits: Sequence[Split], group: Sequence[Place]) -> Example:
    texts, shots = [], []
    for split, image in ((splits[place.split], place.image) for place in group[:4]):
        found = split.images[image]
        label = f" as {split.class_name(found.label)!r}" if found.label >= 0 else ""
        texts.append(f"{split.describe(image)}{label}")
        shots.append(Shot(found.path, found.size_hw))
    more = f" and {len(group) - 4} more" if len(group) > 4 else ""
    return Example("; ".join(texts) + more, tuple(shots[:2]))
