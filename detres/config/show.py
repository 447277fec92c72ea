"""The resolved configuration as YAML, each value with its origin: what `config show` prints."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import yaml

from detres.config.errors import show_value
from detres.config.loader import LoadedConfig, config_to_dict
from detres.config.tree import Path
from detres.config.yaml_reader import parse

_PLAIN = re.compile(r"[A-Za-z_./][\w./{}@+-]*(?::[\w./{}@+-]+)*")
_MAX_COLUMN = 60  # comments of longer lines follow their line directly


class _Line(NamedTuple):
    text: str
    origin: str


def format_resolved(loaded: LoadedConfig) -> str:
    """All settings as YAML that loads to the same Config, the origin of each value as a trailing comment."""
    lines = list(_mapping(config_to_dict(loaded.config), loaded.origins, ()))
    column = max(len(line.text) for line in lines if len(line.text) <= _MAX_COLUMN)
    shown = [f"{line.text:<{column}}  # {_comment(line.origin)}" if line.origin else line.text for line in lines]
    files = ", ".join(path.name for path in loaded.files)
    return "\n".join([_comment(f"# {loaded.name}: resolved from {files}"), *shown, ""])


def _comment(text: str) -> str:
    """The names of files in one line: what comes behind a line break would be read as settings."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _mapping(values: dict[str, object], origins: dict[str, str], path: Path, indent: str = "") -> Iterator[_Line]:
    for key, value in values.items():
        below = (*path, key)
        name = f"{indent}{format_scalar(key)}:"
        if isinstance(value, dict) and value:
            yield _Line(name, "")
            yield from _mapping(value, origins, below, f"{indent}  ")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield _Line(name, "")
            yield from _items(value, origins, below, f"{indent}  ")
        else:
            yield _Line(f"{name} {_flow(value)}", origins.get(".".join(map(str, below)), ""))


def _items(values: list[object], origins: dict[str, str], path: Path, indent: str) -> Iterator[_Line]:
    for index, item in enumerate(values):
        below = (*path, index)
        if not isinstance(item, dict) or not item:
            yield _Line(f"{indent}- {_flow(item)}", origins.get(".".join(map(str, below)), ""))
            continue
        first, *rest = _mapping(item, origins, below, f"{indent}  ")
        yield first._replace(text=f"{indent}- {first.text.lstrip()}")
        yield from rest


def _flow(value: object) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{format_scalar(key)}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return format_scalar(value)


def format_scalar(value: object) -> str:
    """A scalar as YAML that this package's reader reads back unchanged."""
    if value is None or isinstance(value, bool):
        return show_value(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        text = repr(value).replace("inf", ".inf").replace("nan", ".nan")
        return text if "." in text else text.replace("e", ".0e")  # 1e-05 is text to YAML 1.1 readers
    text = str(value)
    if _PLAIN.fullmatch(text) and parse(text, lambda line: "").value == text:
        return text
    return yaml.safe_dump(text, default_style='"', width=math.inf).rstrip("\n")
