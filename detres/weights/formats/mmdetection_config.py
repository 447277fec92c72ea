"""What a file of mmdetection says of itself: its configuration's text, read as values and never executed.

mmdetection 2.x keeps the text under meta/config and the class names under meta/CLASSES, 3.x (mmengine) under meta/cfg
and meta/dataset_meta/classes.
"""

import ast
import re
from collections.abc import Mapping
from typing import Any

from detres.weights.formats.shapes import merge

Config = dict[str, Any]

_FILE_NAME = re.compile(r"(?m)^\S+\.py\s*$")  # heads each file in the texts of the first 2.x versions
_UNKNOWN = object()  # the value of what is no literal


def class_names_in(extra: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes in label order; none where the file does not tell."""
    meta = _mapping(extra.get("meta"))
    dataset = _mapping(meta.get("dataset_meta"))
    found = dataset.get("classes") or dataset.get("CLASSES") or meta.get("CLASSES") or ()
    return (found,) if isinstance(found, str) else tuple(str(name) for name in found)


def config_in(extra: Mapping[str, Any]) -> Config:
    """The configuration that a file holds, as plain values; empty without one."""
    meta = _mapping(extra.get("meta"))
    found = meta.get("cfg") or meta.get("config") or ""
    return dict(found) if isinstance(found, Mapping) else read_config(str(found))


def read_config(text: str) -> Config:
    """The assignments of literals at the top of a Python configuration; whatever is not a literal is left out.

    The text may be several files one after the other, base files first: later values go over earlier ones. Empty for
    a text that is no Python.
    """
    values: Config = {}
    try:
        for line in ast.parse(_FILE_NAME.sub("", text)).body:
            if isinstance(line, ast.Assign) and isinstance(name := line.targets[0], ast.Name):
                _assign(values, name.id, _literal(line.value, values))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return values


def _assign(values: Config, name: str, value: Any) -> None:
    old = values.get(name)
    if isinstance(value, dict) and isinstance(old, dict) and "_delete_" not in value:
        value = merge(old, value)
    if value is not _UNKNOWN:
        values[name] = value


def _literal(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of a literal, of dict(...) with literal values, or of a name among `names`; else _UNKNOWN."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.get(node.id, _UNKNOWN)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            found = [_literal(part, names) for part in parts]
            return _UNKNOWN if any(value is _UNKNOWN for value in found) else found
        case ast.Dict():
            items = [(_literal(k, names), v) for k, v in zip(node.keys, node.values, strict=True) if k is not None]
            return _known({key: _literal(v, names) for key, v in items if isinstance(key, str)})
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return _known({k.arg: _literal(k.value, names) for k in node.keywords if k.arg is not None})
    return _UNKNOWN


def _known(items: Mapping[str, Any]) -> Config:
    return {key: value for key, value in items.items() if value is not _UNKNOWN}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
