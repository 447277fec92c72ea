"""Downloads and archives, against a small local web server: resumption, damage, hostile archives."""

import hashlib
import io
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detres.data.archives import extract, fetch_and_extract
from detres.files.download import Download, DownloadError, fetch, progress_lines

CONTENT = bytes(range(256)) * 400
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server:
    """A web server whose files and faults the test sets."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []  # of every request so far
        self.break_after: list[int] = []  # how many bytes the next answers send before the connection drops
        self.statuses: list[int] = []  # errors that the next answers are
        self.honours_range = True
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: B902
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.ranges.append(self.headers.get("Range"))
                body = server.files.get(self.path.lstrip("/"))
                if server.statuses or body is None:
                    return self.send_error(server.statuses.pop() if server.statuses else 404)
                start = 0
                if server.honours_range and (span := self.headers.get("Range")):
                    start = int(span.removeprefix("bytes=").rstrip("-"))
                    if start >= len(body):
                        return self.send_error(416)
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                end = start + server.break_after.pop(0) if server.break_after else len(body)
                self.wfile.write(body[start:end])

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    running.files["f.bin"] = CONTENT
    yield running
    running.http.shutdown()
    running.http.server_close()


def get(server: Server, folder: Path, name: str = "f.bin", **options: object) -> Path:
    download = Download(server.url(name), **options)
    return fetch(download, folder, pause=0.0, timeout=5.0, attempts=3)


def test_an_empty_file(server: Server, tmp_path: Path) -> None:
    server.files["empty"] = b""
    assert get(server, tmp_path, "empty").read_bytes() == b""


def test_a_whole_file_with_size_and_checksum(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path / "new" / "folder", size=len(CONTENT), checksum=MD5)
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["f.bin"]
    get(server, path.parent, checksum=MD5)
    assert len(server.ranges) == 1, "a checked file is not fetched again"


def test_broken_connections_are_taken_up_where_they_broke(server: Server, tmp_path: Path) -> None:
    server.break_after = [1000, 500]
    assert get(server, tmp_path, checksum=MD5).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.break_after = [70000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"connection broke after 70000 of 102400.*goes on at byte 70000"):
        get(server, tmp_path, checksum=MD5)
    assert os.listdir(tmp_path) == ["f.bin.part"]
    assert get(server, tmp_path, checksum=MD5).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=70000-"


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.honours_range, server.break_after = False, [1000]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_complete_part_only_gets_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.bin.part").write_bytes(CONTENT)
    assert get(server, tmp_path, checksum=MD5).read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 1000, CONTENT + b"x"])
def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "f.bin.part").write_bytes(left)
    with pytest.raises(
        DownloadError, match=r"is not the file published at .*f.bin: got \w+, expected \w+; it is removed"
    ):
        get(server, tmp_path, checksum=MD5)
    assert os.listdir(tmp_path) == []


def test_the_first_digits_of_a_checksum(server: Server, tmp_path: Path) -> None:
    digits = MD5.removeprefix("md5:")
    assert get(server, tmp_path / "a", checksum=MD5[:10]).read_bytes() == CONTENT
    wrong = digits[:5] + ("0" if digits[5] != "0" else "1")
    with pytest.raises(DownloadError, match=rf"got {digits[:6]}, expected {wrong}; it is removed"):
        get(server, tmp_path / "b", checksum=f"md5:{wrong}")
    assert os.listdir(tmp_path / "b") == []


def test_a_wrong_size(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="got 102400, expected 7; it is removed"):
        get(server, tmp_path, size=7)


def test_errors_of_the_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"/nowhere: the server answers 404 .*still published"):
        get(server, tmp_path, "nowhere")
    assert len(server.ranges) == 1, "what is not there is not asked for again"
    server.statuses = [503, 500]
    assert get(server, tmp_path).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="not a web address"):
        fetch(Download("file:///etc/hostname"), tmp_path)


def test_nobody_answers(server: Server, tmp_path: Path) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(DownloadError, match=r"check the connection and run this again$"):
        get(server, tmp_path)


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5))
    with pytest.raises(DownloadError, match=r"f.bin needs 0.0 GB, .* has 0.0 GB free; make room"):
        get(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress_lines("f.zip", percent=50)
    for done in range(0, 101, 10):
        show(done * 10**7, 10**9)
    assert capsys.readouterr().out == "f.zip:   0% of 1.00 GB\nf.zip:  50% of 1.00 GB\nf.zip: 100% of 1.00 GB\n"


def write_zip(path: Path, entries: dict[str, bytes], mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o040755 if name.endswith("/") else mode) << 16
            archive.writestr(info, content)
    return path


def write_tar(path: Path, entries: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in entries.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


GOOD = {"set/a.txt": b"a", "set/deep/b.txt": b"b" * 5000, "top.txt": b""}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_extraction_merges_into_what_is_there(tmp_path: Path, name: str) -> None:
    write = write_zip if name.endswith("zip") else write_tar
    target = tmp_path / "target"
    extract(write(tmp_path / f"empty-{name}", {}), target)
    assert os.listdir(target) == []
    extract(write(tmp_path / name, GOOD), target)
    extract(write(tmp_path / f"more-{name}", {"set/a.txt": b"new", "set/c.txt": b"c"}), target)
    assert files_below(target) == {**GOOD, "set/a.txt": b"new", "set/c.txt": b"c"}


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("set/link")
    info.type, info.linkname = kind, "../../outside"
    return info


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "set/../../outside", "..\\outside", "C:/outside"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    for archive in (
        write_zip(tmp_path / "x.zip", {"good": b"1", name: b"2"}),
        write_tar(tmp_path / "x.tar", {"good": b"1", name: b"2"}),
    ):
        with pytest.raises(DownloadError, match="leads outside; nothing of it was unpacked"):
            extract(archive, tmp_path / "in" / "target")
        assert files_below(tmp_path / "in") == {}
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(DownloadError, match="'set/link' is a link, a device"):
        extract(write_tar(tmp_path / "x.tar", {"good": b"1", "set/link": link(kind)}), tmp_path / "target")
    with pytest.raises(DownloadError, match="'l' is a link, a device"):
        extract(write_zip(tmp_path / "x.zip", {"l": b"/etc/hostname"}, mode=0o120777), tmp_path / "target")
    assert os.listdir(tmp_path / "target") == []


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
@pytest.mark.parametrize("keep", [0, 100, 0.7])
def test_damaged_archives_leave_nothing(tmp_path: Path, name: str, keep: float) -> None:
    write = write_zip if name.endswith("zip") else write_tar
    archive = write(tmp_path / name, {"a": os.urandom(20000), "b": os.urandom(20000)})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(DownloadError, match="not a whole zip or tar archive .*; delete it and run this again"):
        extract(archive, tmp_path / "target")
    assert os.listdir(tmp_path / "target") == []


def test_flipped_bits_in_a_zip_are_noticed(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"a": os.urandom(20000)})
    content = bytearray(archive.read_bytes())
    content[5000] ^= 255
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match="not a whole zip"):
        extract(archive, tmp_path / "target")


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "set").write_text("mine")
    with pytest.raises(DownloadError, match=r"target/set stands where a folder of the archive belongs"):
        extract(write_zip(tmp_path / "x.zip", GOOD), tmp_path / "target")
    assert (tmp_path / "target" / "set").read_text() == "mine"


def test_fetch_and_extract(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["x.zip"] = write_zip(tmp_path / "x.zip", GOOD).read_bytes()
    fetch_and_extract(Download(server.url("x.zip")), tmp_path / "a", quiet=True)
    assert files_below(tmp_path / "a") == GOOD
    assert capsys.readouterr().out == ""
    fetch_and_extract(Download(server.url("x.zip")), tmp_path / "b", keep_archive=True)
    assert set(files_below(tmp_path / "b")) == {*GOOD, "x.zip"}
    assert "x.zip: unpacking into" in capsys.readouterr().out
