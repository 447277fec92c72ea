"""An entry of the model zoo, and what the tables of several publishers share."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

Kind = Literal["detector", "classifier"]

_ARCHITECTURE = re.compile(
    r"(?P<wide>wide_)?res(?:net|next)(?P<depth>\d+)(?P<variant>[cd]?)(?P<gn>_gn)?"
    r"(?:_2|_(?P<groups>\d+)x(?P<width>\d+)d)?"
)


class Metric(NamedTuple):
    """A published result: its name and its value in percent."""

    name: str
    percent: float

    def __str__(self) -> str:
        return f"{self.name} {float(f'{self.percent:g}')}"  # 39.0 and 80.858: as published, with a point


@dataclass(frozen=True)
class Entry:
    """A published checkpoint.

    name       "publisher/model", such as detectron2/faster_rcnn_R_50_FPN_3x
    url        where its publisher keeps the file
    format     the key map that reads it (detres.weights.formats)
    dataset    what it was trained on
    config     a shipped configuration, which with `overrides` ("key=value", as on the command line) is its network,
               the weights it started from, its data and its schedule, as far as settings can say them
    checksum   "md5:..." or "sha256:..." with the first digits, where the publisher puts them into the file's name
    metric     as published, None where nobody publishes one
    licence    of the weights, None where it is not told
    notes      sentences: what the configuration cannot say, and what to know before use
    """

    name: str
    url: str
    format: str
    kind: Kind
    dataset: str
    config: str
    overrides: tuple[str, ...] = ()
    checksum: str | None = None
    metric: Metric | None = None
    licence: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def publisher(self) -> str:
        """The first half of the name."""
        return self.name.partition("/")[0]

    @property
    def file_name(self) -> str:
        """The published file's own name."""
        return PurePosixPath(urlsplit(self.url).path).name


def sha256_in(url: str) -> str | None:
    """The checksum prefix in a file's name by PyTorch's custom, NAME-<8 digits>.pth; None where there is none."""
    found = re.search(r"-([0-9a-f]{8})\.pth$", url)
    return f"sha256:{found[1]}" if found else None


def epochs(number: int, milestones: Iterable[int]) -> tuple[str, ...]:
    """A schedule that counts in epochs and drops at the end of each of `milestones`."""
    drops = ", ".join(map(str, milestones))
    return (
        "train.steps=null",
        f"train.epochs={number}",
        f"train.schedule.milestones=[{drops}]",
        "train.eval_every=null",
    )


def resnet_settings(architecture: str) -> tuple[str, ...]:
    """The backbone's settings for an architecture as torchvision and timm call it, such as resnext50d_32x4d.

    ValueError for a name that is none of a ResNet that detres builds.
    """
    parts = _ARCHITECTURE.fullmatch(architecture)
    if parts is None:
        raise ValueError(f"{architecture!r}: expected resnet, resnext or wide_resnet with a depth, such as resnet50d")
    chosen = {
        "depth": parts["depth"],
        "groups": parts["groups"],
        "width_per_group": "128" if parts["wide"] else parts["width"],
        "deep_stem": "true" if parts["variant"] else None,
        "avg_pool_shortcut": "true" if parts["variant"] == "d" else None,
        "norm": "group" if parts["gn"] else None,
    }
    return tuple(f"model.backbone.{key}={value}" for key, value in chosen.items() if value)
