"""What a benchmark says: a table to read."""

from collections.abc import Iterator, Mapping
from typing import Any

from detres.jobs.benchmark.parts import PARTS

_SETTINGS = ("torch", "torchvision", "processor", "device", "threads", "repeats", "allocator")
_NAMES = {
    "infer": "inference",
    "infer_v2": "inference, version 2",
    "train": "training step",
    "pretrain": "pretraining step",
    "classify": "classification training step",
    "data": "input pipeline with boxes, one core",
}


def format_results(results: dict[str, Any]) -> str:
    """Settings and ceilings, then for each work: agreement, seconds, ratio and parts."""
    settings = results["settings"]
    lines = [settings["model"], ", ".join(f"{name} {settings[name]}" for name in _SETTINGS)]
    if settings["other_load"] is not None:
        lines.append(f"meanwhile others used {settings['other_load']:.0%} of the processors")
    for precision, rates in results["ceilings"].items():
        shown = ", ".join(f"{what} {rate / 1e9:.0f} GFLOP/s" for what, rate in rates.items())
        lines.append(f"ceiling of this machine in {precision}: {shown}")
    for work, figures in results["works"].items():
        lines += ["", title(work, figures), *_format_work(work, figures)]
    return "\n".join(lines)


def _format_work(work: str, figures: Mapping[str, Any]) -> Iterator[str]:
    for side, settings in figures.get("sides", {}).items():
        yield f"  {side:<12} {', '.join(f'{name} {value}' for name, value in settings.items())}"
    if figures["same"]:
        where = f" (losses, gradient at {' x '.join(map(str, figures['checked']))})" if "checked" in figures else ""
        yield f"  same on both sides{where}: {_agreement(figures['same'])}"
    for side, seconds in figures["seconds"].items():
        yield f"  {side:<12} {_spread(seconds)} s{_share(figures, side)}"
    if work not in ("infer", "infer_v2", "train"):
        yield from (f"  {side:<12} {_images_per_second(figures, side)}" for side in figures["seconds"])
    sides = list(figures["parts"])
    ratio = figures["ratio"]
    yield f"  {'ratio':<12} {_spread(ratio)} ({sides[0]} / detres; above 1, detres is faster)"
    if is_telling(ratio):
        low, high = ratio["interval"]
        yield f"  {'':<12} its median lies between {low:.3f} and {high:.3f} with {ratio['confidence']:.1%}"
    yield from _memory(figures)
    if "calls_alone" in figures:
        alone = figures["calls_alone"]
        most = figures["seconds"][sides[0]]["median"] / alone["median"]
        yield f"  {'calls alone':<12} {_spread(alone)} s: decoding, resizing, normalising, which would be {most:.2f}"
    for side, found in figures.get("synchronisations", {}).items():
        yield f"  {side:<12} waits for the GPU {found['count']} times in a step: {_places(found['places'])}"
    yield ""
    yield f"  {'seconds in':<22}" + "".join(f"{side:>22}" for side in sides)
    for part in PARTS:
        if any(part in figures["parts"][side] for side in sides):
            yield f"  {part:<22}" + "".join(f"{_part(figures, side, part):>22}" for side in sides)


def _part(figures: Mapping[str, Any], side: str, part: str) -> str:
    seconds = figures["parts"][side].get(part)
    share = figures.get("ceiling_share_of_parts", {}).get(side, {}).get(part)
    return "" if seconds is None else f"{seconds:.4f}" + (f" ({share:4.0%})" if share is not None else " " * 7)


def _share(figures: Mapping[str, Any], side: str) -> str:
    if "ceiling_share" not in figures:
        return ""
    operations = sum(figures["operations"][side].values())
    return f", {figures['ceiling_share'][side]:.0%} of the ceiling with {operations / 1e9:.0f} GFLOP"


def _places(places: Mapping[str, int]) -> str:
    return ", ".join(f"{place} ({count})" for place, count in places.items()) or "nowhere"


def _memory(figures: Mapping[str, Any]) -> list[str]:
    known = {side: mib for side, mib in figures.get("memory_mib", {}).items() if mib is not None}
    return [f"  {'memory':<12} {', '.join(f'{side} {mib:.0f} MiB' for side, mib in known.items())}"] if known else []


def is_telling(ratio: Mapping[str, Any]) -> bool:
    """Whether there were enough repeats to say where the median lies: five or more."""
    return bool(ratio["confidence"] > 0.9)


def title(work: str, figures: Mapping[str, Any]) -> str:
    """What was done, how often at once, at which size and with what."""
    if work == "eval":
        counts = ", ".join(f"{figures[what]} {what}" for what in ("images", "objects", "detections"))
        return f"COCO evaluation, {counts}, input {figures['input']}"
    name = _NAMES.get(work, "input pipeline alone, one thread")
    height, width = figures["size_hw"]
    size = f"shorter side {height}, longer at most {width}" if work == "data" else f"{height} x {width}"
    return f"{name}, {figures['batch_size']} x {size}, input {figures['input']}"


def _images_per_second(figures: Mapping[str, Any], side: str) -> str:
    return f"{figures['batch_size'] / figures['seconds'][side]['median']:.0f} images/s"


def _spread(values: Mapping[str, Any]) -> str:
    return f"median {values['median']:.3f}, {values['min']:.3f} to {values['max']:.3f}"


def _agreement(same: Mapping[str, Any]) -> str:
    parts: list[str] = []
    losses: dict[str, list[float]] = {}
    for name, found in same.items():
        if "same" in found:
            parts.append(f"{found['same']:.1%} of {sum(found['per_image'])} {name} (IoU > {found['iou']:g})")
        elif "identical" in found:
            parts.append(f"{found['identical']} {name}, bit for bit")
        elif "difference" in found:
            parts.append(f"{name} to {found['difference']:.1g} ({found['tolerance']:g} allowed)")
        elif name == "operations":
            parts.append(f"{name} {found['detres'] / found['torchvision'] - 1:+.1%}")
        else:
            losses.setdefault("timed " if name.startswith("timed ") else "", []).append(_apart(found))
    for which, apart in losses.items():
        parts.append(f"{len(apart)} {which}{'loss' if len(apart) == 1 else 'losses'} to {max(apart):.0e}")
    return ", ".join(parts)


def _apart(found: Mapping[str, float]) -> float:
    theirs, ours = found.values()
    return abs(ours / theirs - 1)
