"""Finding configuration files, inheritance through `base:`, and unreadable files."""

from pathlib import Path

import pytest

from detres.config import ConfigError
from detres.config.files import find_config, read_with_bases, shipped_configs
from detres.config.tree import plain


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def test_empty_file(tmp_path: Path) -> None:
    write(tmp_path, empty="")
    with pytest.raises(ConfigError, match=r"empty.yaml:1: got an empty file, expected a mapping"):
        read_with_bases(tmp_path / "empty.yaml")


def test_a_path_comes_first_then_the_shipped_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = shipped_configs()
    assert find_config("coco_r50.yaml") == find_config("coco_r50") == shipped / "coco_r50.yaml"
    write(tmp_path, coco_r50="{}", own="{}")
    assert find_config("coco_r50.yaml") == tmp_path / "coco_r50.yaml"
    assert find_config(str(tmp_path / "own.yaml")) == find_config("own") == tmp_path / "own.yaml"


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no configuration 'coco_50'.*did you mean coco_r50.yaml\?"):
        find_config("coco_50")
    with pytest.raises(ConfigError, match="shipped are bccd.yaml"):
        find_config("/no/such/zzzzzz")
    with pytest.raises(ConfigError):
        find_config("")


def test_bases_lie_below_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", a="x: {p: 1, q: 1}\ny: 1", b="base: a.yaml\nx: {q: 2}")
    write(tmp_path, c="y: 3\nz: 3", d="base: [sub/b.yaml, c.yaml]\nz: 4")
    tree, files = read_with_bases(tmp_path / "d.yaml")
    assert plain(tree) == {"x": {"p": 1, "q": 2}, "y": 3, "z": 4}
    assert [file.stem for file in files] == ["a", "b", "c", "d"]
    assert tree.at(("x", "q")).origin == f"{tmp_path / 'sub' / 'b.yaml'}:2"


def test_a_shared_base_is_no_circle(tmp_path: Path) -> None:
    write(tmp_path, a="v: 1", b="base: a.yaml\nw: 2", c="base: a.yaml\nu: 3", d="base: [b.yaml, c.yaml]")
    assert plain(read_with_bases(tmp_path / "d.yaml")[0]) == {"v": 1, "w": 2, "u": 3}


def test_own_files_may_build_on_shipped_ones(tmp_path: Path) -> None:
    write(tmp_path, mine="base: coco_r50.yaml\nseed: 3")
    _, files = read_with_bases(tmp_path / "mine.yaml")
    assert files[-2:] == [shipped_configs() / "coco_r50.yaml", tmp_path / "mine.yaml"]


def test_circles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, a="base: b.yaml", b="base: c.yaml", c="base: b.yaml", own="base: own.yaml")
    with pytest.raises(ConfigError, match=r"b.yaml: base: .*circle: b.yaml -> c.yaml -> b.yaml"):
        read_with_bases(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match=r"own.yaml -> own.yaml"):
        read_with_bases(tmp_path / "own.yaml")


@pytest.mark.parametrize("base", ["3", "[a.yaml, {b: c}]", "true"])
def test_a_base_that_is_no_path(tmp_path: Path, base: str) -> None:
    write(tmp_path, a="x: 1", bad=f"x: 1\nbase: {base}")
    with pytest.raises(ConfigError, match=r"bad.yaml:2: base: got .* expected the path"):
        read_with_bases(tmp_path / "bad.yaml")


def test_a_missing_base_names_the_line(tmp_path: Path) -> None:
    write(tmp_path, bad="x: 1\nbase:\n  - nowhere.yaml")
    with pytest.raises(ConfigError, match=r"bad.yaml:3: base: no configuration 'nowhere.yaml'"):
        read_with_bases(tmp_path / "bad.yaml")


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="latin.yaml: cannot be read: it is not UTF-8 text"):
        read_with_bases(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_with_bases(tmp_path)
    write(tmp_path, list="- a")
    with pytest.raises(ConfigError, match="list.yaml:1: got list, expected a mapping"):
        read_with_bases(tmp_path / "list.yaml")
