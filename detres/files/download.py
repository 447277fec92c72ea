"""Fetching published files: taken up again after an interruption, checked, nothing half-written under the real name.

A download grows in `<name>.part` and gets its name only once it is complete and its checksum agrees.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from ssl import SSLError
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

Progress = Callable[[int, int | None], None]  # (bytes done, bytes in all if known)
CHUNK = 1 << 20
_NETWORK_ERRORS = (HTTPException, URLError, ConnectionError, TimeoutError, SSLError)


class DownloadError(OSError):
    """A file that could not be fetched, checked or unpacked."""


class Download(NamedTuple):
    """A file on the web.

    size      in bytes, or None; a known size is checked
    checksum  "md5:..." or "sha256:...", or its first digits, or None where nobody publishes one
    """

    url: str
    size: int | None = None
    checksum: str | None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(urlsplit(self.url).path).name


def fetch(
    download: Download,
    folder: Path,
    *,
    progress: Progress | None = None,
    attempts: int = 5,
    pause: float = 1.0,
    timeout: float = 60.0,
) -> Path:
    """Download a file into `folder` and return its path; what is there already is checked and kept.

    A broken connection is taken up where it broke, until `attempts` tries in a row brought no byte (`pause` seconds
    after the first, twice as long after each further one); a later call goes on likewise. Raises DownloadError with
    the URL, the reason and the remedy.
    """
    if urlsplit(download.url).scheme not in ("http", "https"):
        raise DownloadError(f"{download.url}: not a web address; expected http:// or https://")
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / download.name, folder / f"{download.name}.part"
    if target.exists():
        return _checked(target, download)
    failures = 0
    while not _try_to_continue(download, part, progress, timeout, last=failures + 1 >= attempts):
        failures += 1
        time.sleep(min(pause * 2 ** (failures - 1), 60.0))
    os.replace(_checked(part, download), target)
    return target


def _try_to_continue(download: Download, part: Path, progress: Progress | None, timeout: float, last: bool) -> bool:
    """True when the file is complete, False when the connection failed; DownloadError if it was the last try."""
    while True:
        before = file_size(part)
        try:
            _continue(download, part, progress, timeout)
            return True
        except _NETWORK_ERRORS as error:
            if file_size(part) > before:
                continue  # something came: go on at once
            if not last:
                return False
            remedy = "check the connection and run this again" + (f": it goes on at byte {before}" if before else "")
            raise DownloadError(f"{download.url}: {error or type(error).__name__}; {remedy}") from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            text = f"{part.parent}: the disk is full; make room and run this again: it goes on at byte"
            raise DownloadError(f"{text} {file_size(part)}") from error


def _continue(download: Download, part: Path, progress: Progress | None, timeout: float) -> None:
    """Append to `part` what the server has beyond it; returns when the file is complete."""
    start = file_size(part)
    if download.size is not None and start == download.size:
        return
    response = _request(download.url, start, timeout)
    if response is None:
        return
    with response:
        start = start if response.status == 206 else 0  # a server that ignores Range sends all of it again
        total = _total(response, start)
        need_space(part.parent, None if total is None else total - start, download.url)
        with part.open("ab" if start else "wb") as file:
            _copy(response, file.write, start, total, progress)
    if total is not None and file_size(part) != total:
        raise ConnectionError(f"the connection broke after {file_size(part)} of {total} bytes")


def _request(url: str, start: int, timeout: float) -> HTTPResponse | None:
    """The answer to a request for all from byte `start` on; None if there is nothing beyond."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "detres"}  # compressed parts would not fit together
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout)
        assert isinstance(response, HTTPResponse), "http(s) URLs give an HTTPResponse"
        return response
    except HTTPError as error:
        if error.code == 416 and start:
            return None  # complete, or longer than the file: size and checksum tell
        answer = f"the server answers {error.code} {error.reason}"
        if error.code in (408, 429) or error.code >= 500:
            raise ConnectionError(answer) from error
        raise DownloadError(f"{url}: {answer}; is the file still published there?") from error


def _total(response: HTTPResponse, start: int) -> int | None:
    """The size of the whole file as the server says it."""
    if response.status == 206:
        span, _, total = response.headers.get("Content-Range", "").partition("/")
        if not span.startswith(f"bytes {start}-"):
            raise DownloadError(f"{response.url}: asked for bytes from {start}, the server sends {span or 'no range'}")
        return int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length")
    return int(length) if length is not None else None


def _copy(
    response: HTTPResponse, write: Callable[[bytes], object], done: int, total: int | None, progress: Progress | None
) -> None:
    while chunk := response.read1(CHUNK):
        write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, total)


def _checked(path: Path, download: Download) -> Path:
    """The path, if size and checksum agree; else the file is put aside (a part: removed) and DownloadError raised."""
    found, expected = str(file_size(path)), str(download.size)
    if (download.size is None or found == expected) and download.checksum is not None:
        algorithm, _, expected = download.checksum.partition(":")
        found = file_checksum(path, algorithm)[: len(expected)]
    if found == expected or (download.size is None and download.checksum is None):
        return path
    text = f"{path} is not the file published at {download.url}: got {found}, expected {expected}"
    if path.name == download.name:  # perhaps somebody put it there by hand
        aside = path.with_name(f"{path.name}.bad")
        os.replace(path, aside)
        raise DownloadError(f"{text}; it is now {aside.name}, run this again")
    path.unlink()
    raise DownloadError(f"{text}; it is removed, run this again")


def file_checksum(path: Path, algorithm: str) -> str:
    """The hexadecimal checksum ("md5", "sha256") of a file."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def file_size(path: Path) -> int:
    """In bytes; 0 for a file that does not exist."""
    return path.stat().st_size if path.exists() else 0


def need_space(folder: Path, needed: int | None, what: object) -> None:
    """Raises DownloadError when `needed` bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        text = f"{what} needs {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free"
        raise DownloadError(f"{text}; make room or choose another folder")


def progress_lines(name: str, percent: int = 5) -> Progress:
    """A Progress that prints a line whenever another `percent` of the file are there."""
    shown = -1

    def show(done: int, total: int | None) -> None:
        nonlocal shown
        step = done * 100 // (total * percent) if total else done // (100 * CHUNK)
        if step > shown:
            shown = step
            share = f"{done * 100 // total:3d}% of {total / 1e9:.2f} GB" if total else f"{done / 1e9:.2f} GB"
            print(f"{name}: {share}", flush=True)

    return show
