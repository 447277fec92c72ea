"""Unpacking archives from the web: nothing leaves the target folder, nothing half-unpacked stays behind."""

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from detres.files.download import CHUNK, Download, DownloadError, fetch, need_space, progress_lines

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


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
    for archives that are damaged, that hold links, devices or paths leading outside, or that do not fit on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{archive.name}-", dir=folder) as temporary:
        try:
            unpack = _unpack_zip if archive.suffix == ".zip" else _unpack_tar
            unpack(archive, Path(temporary))
        except _DAMAGE as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            text = f"{archive}: not a whole zip or tar archive ({reason})"
            raise DownloadError(f"{text}; delete it and run this again") from error
        _move_over(Path(temporary), folder)


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        need_space(folder, sum(member.file_size for member in members), archive)
        for member in members:
            kind = (member.external_attr >> 16) & 0o170000  # the Unix file type, 0 where none was recorded
            target = _inside(archive, folder, member.filename, kind in (0, 0o100000, 0o040000))
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        for member in opened:  # one pass: a compressed archive is not read twice
            target = _inside(archive, folder, member.name, member.isfile() or member.isdir())
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            need_space(folder, member.size, archive)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = opened.extractfile(member)
            assert source is not None, "a plain file has content"
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
            if target.stat().st_size != member.size:
                raise tarfile.ReadError(f"{member.name} is cut short")


def _inside(archive: Path, folder: Path, name: str, is_plain: bool) -> Path:
    """Where a member goes; DownloadError unless it is a plain file or folder with a path inside the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not is_plain or path.is_absolute() or ".." in path.parts or ":" in name:
        raise DownloadError(f"{archive}: {name!r} is a link, a device or leads outside; nothing of it was unpacked")
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
