"""Unpacking archives from the web: nothing leaves the target folder, nothing half-unpacked stays behind."""

import bz2
import errno
import gzip
import lzma
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from detres.files.download import CHUNK, Download, DownloadError, fetch, need_space, progress_lines

ALWAYS_ALLOWED = 256 << 20
"""Bytes that any archive may unpack to."""
MOST_EXPANSION = 200
"""How many times its own size a larger one may: photographs hardly shrink, annotations to a tenth."""
_LONGEST_READ = 16 << 20  # bytes; tarfile reads a header's text at once, however long it says to be
_OF_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE)
_COMPRESSED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x5d\0\0": lzma.open,
}


def fetch_and_extract(download: Download, folder: Path, *, keep_archive: bool = False, quiet: bool = False) -> None:
    """Download an archive into `folder`, unpack it there, and delete it unless `keep_archive`."""
    progress = None if quiet else progress_lines(download.name)
    archive = fetch(download, folder, progress=progress)
    if not quiet:
        print(f"{download.name}: unpacking into {folder}", flush=True)
    extract(archive, folder)
    if not keep_archive:
        archive.unlink()


def extract(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar(.gz, .bz2, .xz) into `folder`, on top of what is there.

    It is unpacked into a temporary folder first and moved from there. Raises DownloadError, leaving nothing behind,
    for archives that are damaged, that hold links, devices or paths leading outside, that do not fit on the disk, or
    that grow beyond MOST_EXPANSION.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{archive.name}-", dir=folder) as temporary:
        try:
            unpack = _unpack_zip if archive.suffix == ".zip" else _unpack_tar
            unpack(archive, Path(temporary))
        except DownloadError:
            raise
        except Exception as error:  # damaged archives make their readers, and the file system, raise nearly anything
            if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            text = f"{archive}: not a whole zip or tar archive ({reason:.200})"
            raise DownloadError(f"{text}; delete it and run this again") from error
        _move_over(Path(temporary), folder)


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        _need_room(archive, folder, sum(member.file_size for member in members))
        for member in members:
            kind = (member.external_attr >> 16) & 0o170000  # the Unix file type, 0 where none was recorded
            target = _inside(archive, folder, member.filename, kind in (0, 0o100000, 0o040000))
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            with opened.open(member) as source:
                _write(source, target)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with archive.open("rb") as file:
        head = file.read(8)
    unpacked = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), open)
    total, bounded = 0, cast(Any, _Bounded)
    with unpacked(archive, "rb") as file, tarfile.open(fileobj=bounded(file, _limit(archive)), mode="r:") as opened:
        for member in opened:  # one pass: a compressed archive is not read twice
            if member.size < 0:  # tarfile would go back by it, for ever
                raise tarfile.ReadError(f"{member.name} has the size {member.size}")
            target = _inside(archive, folder, member.name, member.isfile() or member.isdir())
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            total += member.size
            _need_room(archive, folder, total, written=total - member.size)
            source = opened.extractfile(member)
            assert source is not None, "a plain file has content"
            with source:
                _write(source, target)
            if target.stat().st_size != member.size:
                raise tarfile.ReadError(f"{member.name} is cut short")


def _write(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)


def _limit(archive: Path) -> int:
    """The bytes that an archive may unpack to."""
    return max(ALWAYS_ALLOWED, MOST_EXPANSION * archive.stat().st_size)


def _need_room(archive: Path, folder: Path, total: int, written: int = 0) -> None:
    """DownloadError when an archive unpacks to so much that it must be a trap, or than the disk holds."""
    if total > _limit(archive):
        raise DownloadError(
            f"{archive}: {archive.stat().st_size} bytes that unpack to {total} or more: such an archive is made to "
            "fill disks; nothing of it was unpacked. If it is what you want, unpack it by hand"
        )
    need_space(folder, total - written, archive)


class _Bounded:
    """An uncompressed tar file of which no more than `most` bytes are read, and not many at once."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most = file, most

    def read(self, size: int) -> bytes:
        """As a file's; tarfile.ReadError for what no archive needs."""
        if not 0 <= size <= _LONGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._require(self._file.tell() + size - tarfile.RECORDSIZE)
        return self._file.read(size)

    def seek(self, position: int) -> int:
        """As a file's."""
        self._require(position - tarfile.RECORDSIZE)
        return self._file.seek(position)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()

    def _require(self, position: int) -> None:
        if position > self._most:
            raise tarfile.ReadError(f"it unpacks to more than {self._most} bytes")


def _inside(archive: Path, folder: Path, name: str, is_plain: bool) -> Path:
    """Where a member goes; DownloadError unless it is a plain file or folder with a path inside the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not is_plain or path.is_absolute() or ".." in path.parts or ":" in name:
        raise DownloadError(
            f"{archive}: {name!r:.200} is a link, a device or leads outside; nothing of it was unpacked"
        )
    return folder.joinpath(*path.parts)


def _move_over(source: Path, target: Path) -> None:
    """Move all below `source` into `target`: folders are merged, files replaced."""
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move_over(entry, place)
        elif place.is_dir() or (entry.is_dir() and place.exists()):
            kind = "folder" if entry.is_dir() else "file"
            raise DownloadError(f"{place} stands where a {kind} of the archive belongs; move it away and run again")
        else:
            shutil.move(entry, place)  # not os.replace: a folder of the data may lie on another disk
