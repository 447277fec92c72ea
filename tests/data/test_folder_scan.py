"""Finding images in folders: kinds, links, and the word on how far it is."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from detres.data import folder_scan
from detres.data.folder_scan import ScanProgress, images_below


def test_an_empty_folder_and_a_quick_scan_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = ScanProgress(tmp_path)
    assert images_below(tmp_path, progress) == []
    progress.finish()
    assert capsys.readouterr() == ("", "")


def test_order_and_kinds(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/c.PNG", "a/d/e.jpeg", ".x/f.jpg", "a/.g.jpg", "h.txt", "a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert images_below(tmp_path, ScanProgress(tmp_path)) == ["a.jpg", "a/c.PNG", "a/d/e.jpeg", "b.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.jpg").touch()
    (tmp_path / "set" / "deep").mkdir(parents=True)
    os.symlink(tmp_path / "real", tmp_path / "set" / "linked")
    os.symlink(tmp_path / "set", tmp_path / "set" / "deep" / "up")
    os.symlink(tmp_path / "absent.jpg", tmp_path / "set" / "broken.jpg")
    assert images_below(tmp_path / "set", ScanProgress(tmp_path)) == ["broken.jpg", "linked/1.jpg"]


def test_long_scans_tell_how_far_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 2.5, 2.5, 3.0, 4.6, 4.6])  # a line is written at 2.5 and 4.6, and the clock read again
    monkeypatch.setattr(folder_scan, "time", SimpleNamespace(monotonic=lambda: next(times)))
    progress = ScanProgress("train")
    for _ in range(4):
        progress.add(1000)
    progress.finish()
    assert capsys.readouterr().err.splitlines() == [
        "train: 2,000 images found so far ...",
        "train: 4,000 images found so far ...",
        "train: 4,000 images found",
    ]
