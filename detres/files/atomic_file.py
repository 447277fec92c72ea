"""Files that are whole or not there: written beside their final name, flushed to the disk, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix) to write to; it becomes `path` when the block ends without an error.

    The folder is made if need be. On any error (a full disk, Ctrl-C) the partial file is removed and what stood at
    `path` before stays whole. Raises OSError naming `path` when nothing can be written there.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"cannot write {path}: {reason}; check that the folder is writable and the disk not full"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """The same for a binary file that is open for writing."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, all or nothing; of file names that are no UTF-8, escapes."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def temporary_name(path: Path) -> Path:
    """The partial file beside `path`; in the same folder, because a rename across disks is not atomic."""
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`."""
    for leftover in folder.glob(".*.partial*"):
        leftover.unlink(missing_ok=True)


def require_writable(folder: Path, remedy: str) -> None:
    """Raise OSError that names the folder and the remedy when no file can be made in it, existing or new.

    Nothing stays behind: a folder that was made for the question is removed.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    probe = temporary_name(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0")
    except FileExistsError as error:
        raise NotADirectoryError(f"output {folder} is a file, expected a folder: {remedy}") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise type(error)(error.errno, f"cannot write into the output folder {folder}: {reason}; {remedy}") from error
    finally:
        with suppress(OSError):
            probe.unlink()  # also of a full disk, which takes the name but not the byte
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def _flush(path: Path) -> None:
    """Force the file's bytes to disk, so that a rename never publishes a file that a power cut leaves empty."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system allows to open a folder."""
    with suppress(OSError):  # some network file systems refuse; the rename has happened all the same
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
