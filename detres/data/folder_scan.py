"""Finding the images in the folders of a data set, with a word on how far it is (ImageNet has 1.3 million)."""

import os
import sys
import time
from collections.abc import Sequence

from detres.data.image_sources import IMAGE_SUFFIXES

SILENT_SECONDS = 2.0
"""How long a scan stays silent, and how much time lies between two lines of a longer one."""


class ScanProgress:
    """Tells on standard error how many images a scan has found; says nothing if it is over quickly."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder, self._count, self._spoken = os.fspath(folder), 0, False
        self._last = time.monotonic()

    def add(self, count: int) -> None:
        """So many more images are found."""
        self._count += count
        if time.monotonic() - self._last >= SILENT_SECONDS:
            self._say("images found so far ...")
            self._last, self._spoken = time.monotonic(), True

    def finish(self) -> None:
        """The scan is over."""
        if self._spoken:
            self._say("images found")

    def _say(self, text: str) -> None:
        print(f"{self._folder}: {self._count:,} {text}", file=sys.stderr, flush=True)


def images_below(folder: str | os.PathLike[str], progress: ScanProgress) -> list[str]:
    """The images in a folder and its subfolders, as sorted paths relative to it.

    Hidden files and folders and files of other kinds are left alone. Links are followed, except back up the tree.
    """
    found: list[str] = []
    pending = [""]
    while pending:
        inner, before = pending.pop(), len(found)
        with os.scandir(os.path.join(folder, inner)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    pending += [] if _leads_back(entry) else [os.path.join(inner, entry.name)]
                elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                    found.append(os.path.join(inner, entry.name))
        progress.add(len(found) - before)
    return sorted(found)


def has_images(folder: str | os.PathLike[str]) -> bool:
    """Whether there are images in the folder itself."""
    return any(name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(folder) if not name.startswith("."))


def listed(names: Sequence[str]) -> str:
    """The first few names, quoted."""
    return ", ".join(repr(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _leads_back(entry: "os.DirEntry[str]") -> bool:
    """Whether a folder is a link to one that it lies in: following it would never end."""
    if not entry.is_symlink():
        return False
    target, here = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
    return here == target or here.startswith(os.path.join(target, ""))
