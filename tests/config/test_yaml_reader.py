"""The YAML reader: scalars, origins, and everything that it refuses."""

import math

import pytest

from detres.config.errors import ConfigError
from detres.config.tree import plain
from detres.config.yaml_reader import parse


def read(text: str) -> object:
    return plain(parse(text, lambda line: f"f.yaml:{line}"))


def test_empty_document() -> None:
    assert read("") is None
    assert read("# only a comment\n") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-3", -3),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("''", ""),
        ("'8'", "8"),
        ("!!str 8", "8"),
        ("!!float 8", 8.0),
        ("-.inf", -math.inf),
        # Text here, though not in YAML 1.1: nothing surprises someone who writes a class name or a time.
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2017-01-01", "2017-01-01"),
        ("none", "none"),
        ("torchvision:ResNet50_Weights.IMAGENET1K_V1", "torchvision:ResNet50_Weights.IMAGENET1K_V1"),
        ("[1, a, {b: 2}]", [1, "a", {"b": 2}]),
    ],
)
def test_values(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_every_value_knows_its_line() -> None:
    root = parse("a:\n  b: 1\n  c:\n    - 2\n    -\n      d: 3\n", lambda line: str(line))
    assert [root.at(path).origin for path in (("a",), ("a", "b"), ("a", "c"), ("a", "c", 0))] == ["1", "2", "3", "4"]
    assert root.at(("a", "c", 1, "d")).origin == "6"
    assert root.at(("a", "x")) is None
    assert root.nearest(("a", "c", 9, "x")).origin == "3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3: key `a` occurs twice (first at f.yaml:1)"),
        ("a: [1\nb: 2", "f.yaml:2: not valid YAML"),
        ("a:\n\t- 1", "f.yaml:2: not valid YAML"),
        ("1: a", "f.yaml:1: keys are text, got 1"),
        ("true: a", "keys are text, got true"),
        ("? [a]\n: b", "keys are text, got a list"),
        (
            "a: !!python/object:os.system x",
            "f.yaml:1: the tag tag:yaml.org,2002:python/object:os.system is not supported",
        ),
        ("a: !!int x", "got 'x', which is not a YAML int"),
        ("a: &a [*a]", "refers to a value that contains it"),
        ("a: *nothing", "not valid YAML: found undefined alias"),
        ("a: {b: 1}\nc:\n  <<: {d: 1}", "f.yaml:3: merge keys (<<) are not supported"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: \x07", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "not a YAML int"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert message in str(caught.value)


def test_alias_bomb_is_bounded() -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12))
    with pytest.raises(ConfigError, match="expands to more than 200000 values"):
        read(f"l0: &l0 [x]\n{levels}")


def test_aliases_are_values() -> None:
    assert read("a: &x {b: [1]}\nc: *x") == {"a": {"b": [1]}, "c": {"b": [1]}}
