"""Configurations made to harm: they are refused soon, by a ConfigError, and what they say does not come to pass."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detres.config import ConfigError, config_from_dict, load_config
from detres.config.files import MAX_BYTES
from detres.config.show import format_resolved

BIG = 10**5000  # Python does not write it out


def refused(name: str | Path, message: str, *overrides: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(name, overrides)
    assert len(str(caught.value)) < 20_000


def test_bases_that_double_at_every_step_are_read_once(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i}.yaml").write_text(f"base: [{i + 1}.yaml, {i + 1}.yaml]\n")
    (tmp_path / "40.yaml").write_text("nothing: 1\n")
    refused(tmp_path / "0.yaml", r"40\.yaml:1: nothing: unknown key")


def test_a_chain_of_bases_has_an_end(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i}.yaml").write_text(f"base: {i + 1}.yaml\n")
    refused(tmp_path / "0.yaml", "more than 50 bases one above the other")


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x.yaml", "a\0b", "\ud800"], ids=range(4))
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    refused(name, "no configuration")
    if name.isprintable():
        (tmp_path / "a.yaml").write_text(f"base: {name!r}\n")
        refused(tmp_path / "a.yaml", r"a\.yaml:1: base: no configuration")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [touch ran]", "the tag .*os.system is not supported"),
        ("a: !!python/name:os.system x", "the tag .*os.system is not supported"),
        ("a: !!set {x}", "the tag .*set is not supported"),
        (f"a: {'[' * 150}{']' * 150}", "nested too deeply"),
        (f"a: 0x{'f' * 5000}", "not a YAML int of at most 1024 bits"),
        (f"a: {'9' * 5000}", "not a YAML int of at most 1024 bits"),
        (f"a: {'x' * MAX_BYTES}", "larger than 1048576 bytes"),
        ("".join(f"k{i}: 1\n" for i in range(500)), "and 403 more"),
    ],
    ids=range(8),
)
def test_contents(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    refused(tmp_path / "a.yaml", message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.anchors.sizes.²=1", "got {'²': 1}, expected a list"),
        (f"model.anchors.sizes.{'9' * 5000}=1", "got list index 9"),
        (f"{'a.' * 3000}a=1", "expected key=value"),
        (f"seed={2**60}", "expected a number less than or equal to 9007199254740992"),
        ("model.roi_heads.box_head.channels=100000000", "expected a number less than or equal to 65536"),
        ("model.rpn.convs=100000000", "expected a number less than or equal to 1000"),
    ],
    ids=range(6),
)
def test_overrides(override: str, message: str) -> None:
    refused("coco_r50.yaml", message, override)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [torch.zeros(1), nested(500), BIG, {1: 2}, object(), b"x"],
    ids=["tensor", "nested", "big", "keys", "object", "bytes"],
)
def test_what_a_checkpoint_may_hold_as_its_configuration(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"x\.pt: (holds a|nested too deeply)"):
        config_from_dict({"model": value}, "x.pt")
    with pytest.raises(ConfigError, match=r"x\.pt: "):
        config_from_dict(value, "x.pt")


def test_the_name_of_a_file_cannot_add_settings(tmp_path: Path) -> None:
    path = tmp_path / "a\nseed: 7\n#.yaml"
    path.write_text("base: coco_r50.yaml\nseed: 3\n")
    shown = tmp_path / "shown.yaml"
    shown.write_text(format_resolved(load_config(path)))
    assert load_config(shown).config.seed == 3
