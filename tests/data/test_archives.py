"""Archives made to harm: what they unpack to, where, and how long reading them would take."""

import gzip
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from detres.data import archives
from detres.data.archives import extract
from detres.files.download import DownloadError


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


def refused(path: Path, message: str) -> None:
    target = path.parent / "target"
    with pytest.raises(DownloadError, match=message) as caught:
        extract(path, target)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000 and not list(target.iterdir())
    assert sorted(entry.name for entry in path.parent.iterdir()) == sorted([path.name, "target"])


def test_an_archive_of_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    extract(tmp_path / "a.zip", tmp_path / "target")
    extract(tmp_path / "a.tar", tmp_path / "target")
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize("suffix", ["", "gz", "bz2", "xz"])
def test_every_compression(tmp_path: Path, suffix: str) -> None:
    with tarfile.open(tmp_path / "a.tar", f"w:{suffix}") as archive:
        archive.add(__file__, "long" * 40 + "/x.py")
    extract(tmp_path / "a.tar", tmp_path / "target")
    assert (tmp_path / "target" / ("long" * 40) / "x.py").read_bytes() == Path(__file__).read_bytes()


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1 << 20)
    zeros = bytes(4 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", zeros)
    refused(tmp_path / "a.zip", "unpack to 4194304 or more: such an archive is made to fill disks")
    (tmp_path / "a.zip").unlink()
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header("x", len(zeros)) + zeros))
    refused(path, "unpack to 4194304 or more")
    path.write_bytes(gzip.compress(header("x/", 0, tarfile.DIRTYPE) * 4000))
    refused(path, r"it unpacks to more than \d{7} bytes")
    path.write_bytes(gzip.compress(header("x", 1 << 30, tarfile.GNUTYPE_LONGNAME) + zeros))
    refused(path, "a header of 1073741824 bytes")


def test_a_member_that_leads_back_for_ever(tmp_path: Path) -> None:
    block = bytearray(header("x", 0))
    block[124:136] = b"\xff" * 8 + struct.pack(">i", -512)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(header("ok", 0) + bytes(block) + bytes(1024))
    refused(tmp_path / "a.tar", "x has the size -512")


@pytest.mark.parametrize(
    "name", ["../a", "/tmp/detres-escaped", "a/../../b", "C:\\a", "..\\a", "a/" * 3000 + "b"], ids=range(6)
)
def test_places_outside_and_impossible_ones(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("fine.txt", "fine")
        archive.writestr(zipfile.ZipInfo(name), "hostile")
    refused(tmp_path / "a.zip", "leads outside|not a whole zip or tar archive")


def test_two_members_in_each_others_way(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "file")
        archive.writestr("a/b", "below it")
    refused(tmp_path / "a.zip", "not a whole zip or tar archive")
