"""Finding images and videos, and naming their results."""

from pathlib import Path

import pytest

from detres.data.image_sources import SourceError, find_sources


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def _names(*places: Path | str) -> list[str]:
    return [source.name for source in find_sources(places)]


def test_nothing_given_and_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images given"):
        find_sources([])
    with pytest.raises(SourceError, match="no image or video found there"):
        find_sources([tmp_path])
    with pytest.raises(SourceError, match=r"\*\.jpg: no image or video found"):
        find_sources([tmp_path / "*.jpg"])
    with pytest.raises(SourceError, match=r"a\.jpg: does not exist"):
        find_sources([tmp_path / "a.jpg"])


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    _touch(tmp_path, "notes.txt", "LICENSE")
    with pytest.raises(SourceError, match=r"notes\.txt: \.txt is neither an image"):
        find_sources([tmp_path / "notes.txt"])
    with pytest.raises(SourceError, match="LICENSE: a file without suffix"):
        find_sources([tmp_path / "LICENSE"])


def test_folders_are_searched_in_order_without_other_and_hidden_files(tmp_path: Path) -> None:
    _touch(tmp_path, "b.JPG", "a.png", "sub/c.jpeg", "notes.txt", ".hidden/d.png", ".e.png", "film.MP4")
    sources = find_sources([tmp_path])
    assert [source.name for source in sources] == ["a", "b", "film", "sub/c"]
    assert [source.kind for source in sources] == ["image", "image", "video", "image"]


def test_each_file_counts_once_in_the_order_given(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "b.png", "deep/er/c.png")
    assert _names(tmp_path / "b.png", tmp_path / "*.png", tmp_path) == ["b", "a", "deep/er/c"]
    assert _names(str(tmp_path / "**" / "*.png")) == ["a", "b", "c"]


def test_a_file_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    _touch(tmp_path, "a[1].png", "a1.png")
    assert _names(tmp_path / "a[1].png") == ["a[1]"]


def test_results_never_share_a_name(tmp_path: Path) -> None:
    _touch(tmp_path, "x/a.png", "x/a.jpg", "y/a.png", "y/A.png", "y/b.png")
    assert _names(tmp_path / "x") == ["a_jpg", "a_png"]
    names = _names(tmp_path / "x" / "a.png", tmp_path / "y" / "*.png")
    assert len({name.casefold() for name in names}) == 4
    assert names[-1] == "b"
