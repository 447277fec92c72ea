"""Files that are whole or not there: written beside their final name, flushed to the disk, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write into; `path` is replaced only when the block ends without an error.

    On any error (a full disk, Ctrl-C) the partial file is removed and what stood at `path` before stays whole.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, all or nothing."""
    with atomic_file(path) as file:
        file.write(text.encode())


def temporary_name(path: Path) -> Path:
    """The partial file beside `path`; in the same folder, because a rename across disks is not atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system allows to open a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the rename has happened all the same
    finally:
        os.close(descriptor)
