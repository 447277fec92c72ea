"""Files that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from detres.files import atomic_file as module
from detres.files.atomic_file import (
    atomic_file,
    atomic_path,
    remove_partial_files,
    require_writable,
    write_text_atomically,
)


def test_an_empty_file_in_a_new_folder(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "new" / "a.bin"):
        assert not (tmp_path / "new" / "a.bin").exists()
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"" and os.listdir(tmp_path / "new") == ["a.bin"]


def test_the_temporary_name_has_the_same_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.png") as temporary:  # writers of pictures go by it
        assert temporary.suffix == ".png" and temporary.parent == tmp_path and temporary.name != "a.png"
        temporary.write_bytes(b"x")
    assert (tmp_path / "a.png").read_bytes() == b"x"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, "No space left on device")])
def test_after_an_error_the_old_file_is_whole(tmp_path: Path, error: BaseException | type[BaseException]) -> None:
    write_text_atomically(tmp_path / "a.txt", "naïve")
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind), atomic_file(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise error
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "naïve" and os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_flush", full)
    with pytest.raises(OSError, match=r"cannot write .*a\.txt: No space left on device") as caught:
        write_text_atomically(tmp_path / "a.txt", "text")
    assert caught.value.errno == errno.ENOSPC and not os.listdir(tmp_path)


def test_leftovers_of_killed_processes(tmp_path: Path) -> None:
    for name in (".last.1.partial.pt", ".plain.2.partial", "kept.pt"):
        (tmp_path / name).write_bytes(b"")
    remove_partial_files(tmp_path)
    assert os.listdir(tmp_path) == ["kept.pt"]


def test_asking_whether_a_folder_is_writable_leaves_nothing(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b", "choose another")
    require_writable(tmp_path, "choose another")
    assert not os.listdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file, expected a folder: choose another"):
        require_writable(tmp_path / "file", "choose another")
    with pytest.raises(OSError, match="cannot write into the output folder .*below: .*; choose another"):
        require_writable(tmp_path / "file" / "below", "choose another")


def test_the_question_whether_a_full_disk_takes_a_file_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, content: bytes) -> int:
        path.touch()  # there is room for a name
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match="No space left on device; choose another"):
        require_writable(tmp_path / "new", "choose another")
    assert not os.listdir(tmp_path)


def test_names_that_are_no_utf8_do_not_lose_the_text(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "names.csv", "caf\udce9,1\nélan,2\n")
    assert (tmp_path / "names.csv").read_text(encoding="utf-8") == "caf\\udce9,1\nélan,2\n"
