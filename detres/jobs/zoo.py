"""The text of `detres zoo`: the published checkpoints in a table, or one of them with all that is known about it."""

import shlex

from detres.config import load_config
from detres.evaluation.metrics import format_rows
from detres.weights.report import WeightsError
from detres.weights.zoo import Entry, cached, entries, find, place

_NOTHING = "not published"


def table(filter: str = "") -> str:
    """One line per entry that holds every word of `filter`: its name, result, checksum and configuration.

    Raises WeightsError when there is none, with the nearest names.
    """
    chosen = entries(filter)
    if not chosen:
        find(filter)
        raise WeightsError(f"{filter}: the zoo has nothing like that; `detres zoo` lists all")
    rows = [
        {
            "checkpoint": entry.name,
            "published": str(entry.metric or _NOTHING),
            "checksum": entry.checksum or _NOTHING,
            "config": entry.config,
            "cached": "yes" if cached(entry) else "",
        }
        for entry in chosen
    ]
    return f"{format_rows(rows)}\n\n{_count(len(chosen))}; `detres zoo NAME` tells more about one"


def details(name: str) -> str:
    """All about one entry, and the commands that use it. Raises WeightsError for an unknown name."""
    entry = find(name)
    where = "in the cache" if cached(entry) else "not in the cache, fetched at its first use"
    facts = {
        "name": entry.name,
        "what": f"{entry.kind}, trained on {entry.dataset}",
        "published": str(entry.metric or _NOTHING),
        "url": entry.url,
        "checksum": entry.checksum or _NOTHING,
        "format": entry.format,
        "licence": entry.licence or "not told",
        "file": f"{where}: {place(entry)}",
        "config": entry.config,
    }
    lines = [f"{key:<9}  {value}" for key, value in facts.items()]
    lines += [f"{'':<9}    {setting}" for setting in entry.overrides]
    lines += [f"{'note':<9}  {note}" for note in entry.notes]
    uses = [f"# {purpose}\n{command}" for purpose, command in _commands(entry)]
    return "\n".join([*lines, "", *uses])


def _commands(entry: Entry) -> list[tuple[str, str]]:
    """What for, and how."""
    weights = f"zoo:{entry.name}"
    is_detector = entry.kind == "detector"
    predict = ["predict", "--weights", weights, "photo.jpg", "--output", "found"]
    train = ["train" if is_detector else "pretrain", "--config", entry.config, *entry.overrides]
    found = [
        ("find objects in pictures" if is_detector else "label pictures", predict),
        (f"judge it on the data of {entry.config}", ["eval", "--weights", weights]),
        (
            "turn it into a checkpoint of detres",
            ["convert", "--from", entry.format, weights, "--to", "detres", "out.pt"],
        ),
        ("train one like it from the start", train),
    ]
    if not is_detector:
        found.append(("train a detector that starts from it", _detector_from(entry)))
    return [(purpose, shlex.join(["detres", *command])) for purpose, command in found]


def _detector_from(entry: Entry) -> list[str]:
    """The arguments that train a Faster R-CNN with FPN on the entry's network, which sees pixels as it did."""
    loaded = load_config(entry.config, entry.overrides).config
    depth = getattr(loaded.model.backbone, "depth", 50)
    settings = [text for text in entry.overrides if text.startswith(("model.backbone.", "model.pixels."))]
    settings = [text for text in settings if not text.startswith("model.backbone.depth=")]
    return [
        "train",
        "--config",
        "coco_r50.yaml",
        f"model.backbone.depth={depth}",
        *settings,
        f"model.backbone.weights=zoo:{entry.name}",
    ]


def _count(number: int) -> str:
    return "1 checkpoint" if number == 1 else f"{number} checkpoints"
