"""Fetching entries of the zoo into the cache.

DETRES_CACHE      the cache folder; default: detres below XDG_CACHE_HOME, or ~/.cache/detres
DETRES_OFFLINE=1  never touch the network
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from detres.files import download
from detres.files.download import Download, DownloadError, Progress, progress_lines
from detres.weights.report import WeightsError
from detres.weights.zoo.entry import Entry


def cache_folder() -> Path:
    """Where fetched files are kept."""
    if chosen := os.environ.get("DETRES_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "detres"


def place(entry: Entry) -> Path:
    """Where the entry's file lies once it is fetched, or is to be put by hand."""
    folder = cache_folder() / "checkpoints" / entry.publisher
    # The hub calls all its files alike and its folders after the models.
    is_hub = entry.file_name == "model.safetensors"
    return folder / entry.name.partition("/")[2] / entry.file_name if is_hub else folder / entry.file_name


def cached(entry: Entry) -> bool:
    """Whether the file is there, so that fetching it needs no network."""
    return place(entry).is_file()


def fetch(entry: Entry, progress: Progress | None = None) -> Path:
    """The path of the entry's file, fetched unless it is there; its checksum is compared either way.

    Processes that ask for the same file wait for the first of them. `progress` is told the bytes as they come;
    default: lines on standard output. Raises WeightsError that names the address and where the file belongs.
    """
    path = place(entry)
    is_there = path.is_file()
    if not is_there and is_offline():
        raise WeightsError(f"zoo:{entry.name}: is not in the cache, and DETRES_OFFLINE is set. {_by_hand(entry)}")
    wanted = Download(entry.url, checksum=entry.checksum)
    try:
        with nullcontext() if is_there else _alone(path):  # a cache that is there already may be read-only
            return download.fetch(wanted, path.parent, progress=progress or progress_lines(entry.name))
    except DownloadError as error:
        raise WeightsError(f"zoo:{entry.name}: {error}. {_by_hand(entry)}") from error


def is_offline() -> bool:
    """Whether DETRES_OFFLINE forbids the network."""
    return os.environ.get("DETRES_OFFLINE", "").lower() not in ("", "0", "false", "no")


def _by_hand(entry: Entry) -> str:
    return f"Without a network, download {entry.url} elsewhere and put it at {place(entry)}"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let no other process write the same file meanwhile, where the system can lock files: a run has many ranks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
