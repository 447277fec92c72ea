"""Fetching entries of the zoo from a local web server: the cache, resumption, damage, no network."""

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from detres.files import download
from detres.weights import WeightsError
from detres.weights.zoo import Entry, cache_folder, cached, entries, fetch, find, place
from tests.files.test_download import CONTENT, Server

DIGITS = hashlib.md5(CONTENT).hexdigest()[:6]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETRES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DETRES_OFFLINE", raising=False)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    running.files["R-1.pkl"] = CONTENT
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def entry(server: Server) -> Entry:
    return Entry(
        name="detectron2/R-1",
        url=server.url("R-1.pkl"),
        format="detectron2",
        kind="detector",
        dataset="COCO",
        config="coco_r50.yaml",
        checksum=f"md5:{DIGITS}",
    )


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("DETRES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "detres"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "detres"


def test_every_entry_has_a_place_of_its_own(cache: Path) -> None:
    places = {place(entry) for entry in entries()}
    assert len(places) == len(entries())
    assert place(find("msra/R-50")) == cache / "checkpoints" / "msra" / "R-50.pkl"
    hub = find("timm/resnet34.ra4_e3600_r224_in1k")
    assert place(hub) == cache / "checkpoints" / "timm" / "resnet34.ra4_e3600_r224_in1k" / "model.safetensors"


def test_a_file_is_fetched_once(server: Server, entry: Entry, cache: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert not cached(entry)
    path = fetch(entry, progress=lambda done, total: seen.append((done, total)))
    assert path == cache / "checkpoints" / "detectron2" / "R-1.pkl" and cached(entry)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(entry) == path
    assert len(server.ranges) == 1


def test_lines_tell_the_progress(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(entry)
    assert "detectron2/R-1: 100% of 0.00 GB" in capsys.readouterr().out
    fetch(entry)
    assert capsys.readouterr().out == ""


def test_an_interrupted_transfer_goes_on(server: Server, entry: Entry) -> None:
    server.break_after = [70000, *[0] * 5]
    with pytest.raises(WeightsError, match=r"zoo:detectron2/R-1: .*goes on at byte 70000. Without a network, download"):
        fetch(entry)
    assert fetch(entry).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=70000-"


def test_a_wrong_checksum_is_refused_and_the_file_put_aside(entry: Entry) -> None:
    wrong = replace(entry, checksum="md5:000000")
    with pytest.raises(WeightsError, match=f"is not the file published at .*: got {DIGITS}, expected 000000"):
        fetch(wrong)
    assert not cached(wrong)
    place(wrong).write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"it is now R-1\.pkl\.bad, run this again"):
        fetch(entry)
    assert not cached(entry) and place(entry).with_name("R-1.pkl.bad").read_bytes() == b"something else"


def test_without_a_checksum_any_file_is_taken(entry: Entry) -> None:
    assert fetch(replace(entry, checksum=None)).read_bytes() == CONTENT


def test_nobody_answers(server: Server, entry: Entry) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(WeightsError) as raised:
        fetch(entry)
    assert str(raised.value).endswith(f"download {entry.url} elsewhere and put it at {place(entry)}")


def test_offline(server: Server, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRES_OFFLINE", "1")
    with pytest.raises(WeightsError, match="is not in the cache, and DETRES_OFFLINE is set") as raised:
        fetch(entry)
    assert entry.url in str(raised.value) and str(place(entry)) in str(raised.value)
    place(entry).parent.mkdir(parents=True)
    place(entry).write_bytes(CONTENT)
    assert fetch(entry) == place(entry)
    assert server.ranges == []
    monkeypatch.setenv("DETRES_OFFLINE", "0")
    place(entry).unlink()
    fetch(entry)
    assert len(server.ranges) == 1


def test_a_cache_that_cannot_be_written_is_read(entry: Entry) -> None:
    path = fetch(entry)
    path.with_name(f"{path.name}.lock").unlink()
    fetch(entry)
    assert os.listdir(path.parent) == ["R-1.pkl"], "reading leaves no trace"


def test_several_ask_at_once_and_one_fetches(server: Server, entry: Entry) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(entry, progress=lambda *_: None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [place(entry)] * 4
    assert len(server.ranges) == 1
    assert place(entry).read_bytes() == CONTENT
