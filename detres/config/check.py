"""A tree of values to a Config, or to a ConfigError that lists every mistake with its place."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from detres.config.errors import ConfigError, Mistake, show_value
from detres.config.fields import InconsistentSettings, type_tags
from detres.config.keys import Place, expected_type, follow, hint_for_value, one_of, unknown_key
from detres.config.schema import Config
from detres.config.tree import Node, Path, plain

MOST_MISTAKES = 100  # are told; each costs a search for the key that was meant


def check(tree: Node) -> Config:
    """The Config that a tree describes. Raises ConfigError with all mistakes, in the order of the files."""
    try:
        return Config.model_validate(plain(tree))
    except ValidationError as error:
        entries = error.errors()
        mistakes = [mistake for entry in entries[:MOST_MISTAKES] for mistake in _mistakes(entry, tree)]
        ordered = sorted(dict.fromkeys(mistakes), key=_reading_order)
        if len(entries) > MOST_MISTAKES:
            ordered.append(Mistake("", "", f"and {len(entries) - MOST_MISTAKES} more"))
        raise ConfigError(ordered) from None


def _reading_order(mistake: Mistake) -> tuple[str, int]:
    name, _, line = mistake.where.rpartition(":")
    return (name, int(line)) if line.isdecimal() else (mistake.where, 0)


def _mistakes(entry: Any, tree: Node) -> Iterator[Mistake]:
    """Our mistakes for one entry of pydantic's error list (usually one)."""
    place = follow(entry["loc"])
    inconsistent = entry.get("ctx", {}).get("error")
    if isinstance(inconsistent, InconsistentSettings):
        for key, text in inconsistent.mistakes:
            parts: Path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
            yield _mistake(tree, (*place.path, *parts), text)
    elif entry["type"].startswith("union_tag"):
        yield _wrong_type(tree, place, entry["input"])
    else:
        place = place._replace(path=_as_written(tree, place.path))
        yield Mistake(tree.nearest(place.path).origin, ".".join(map(str, place.path)), _what_is_wrong(entry, place))


def _mistake(tree: Node, path: Path, text: str) -> Mistake:
    return Mistake(tree.nearest(path).origin, ".".join(map(str, _as_written(tree, path))), text)


def _as_written(tree: Node, path: Path) -> Path:
    """The path without the index 0 of one value that stands where a list may stand."""
    kept = [index for index, part in enumerate(path) if part != 0 or _is_item(tree.at(path[:index]))]
    return tuple(path[index] for index in kept)


def _is_item(parent: Node | None) -> bool:
    return parent is None or isinstance(parent.value, list)


def _what_is_wrong(entry: Any, place: Place) -> str:
    kind, value, message = entry["type"], entry["input"], entry["msg"]
    if kind == "extra_forbidden":
        return unknown_key(entry["loc"], place.path, value)
    if kind == "missing":
        return f"missing; expected {expected_type(place.annotation)}"
    if kind in ("model_type", "model_attributes_type"):
        return f"got {show_value(value)}, expected {expected_type(place.annotation)}"
    if kind == "literal_error":
        options = [str(option) for option in get_args(place.annotation)]
        return f"got {show_value(value)}, expected one of {one_of(options)}{hint_for_value(value, options)}"
    if kind.endswith("_too_short") or kind in ("too_short", "too_long"):
        return f"got {show_value(value)}; {message[0].lower()}{message[1:]}"
    words = [str(word) for part in get_args(place.annotation) if get_origin(part) is Literal for word in get_args(part)]
    return f"got {show_value(value)}, expected {one_of([_expectation(message), *words])}{hint_for_value(value, words)}"


def _expectation(message: str) -> str:
    """Pydantic's message as what was expected; its words for the types of Python become those of YAML."""
    text = message.removeprefix("Value error, ").removeprefix("Input should be ")
    for theirs, ours in _WORDS:
        if text.startswith(theirs):
            return ours + text.removeprefix(theirs)
    return text


_WORDS = (
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("a valid boolean", "true or false"),
    ("a valid string", "text"),
    ("a valid list", "a list"),
    ("a valid dictionary", "a mapping"),
    ("greater than", "a number greater than"),
    ("less than", "a number less than"),
    ("String should match pattern", "text that matches"),
)


def _wrong_type(tree: Node, place: Place, value: object) -> Mistake:
    """A group of settings whose `type` is missing or names nothing that there is."""
    options = [tag for group in place.groups for tag in type_tags(group)]
    if not isinstance(value, dict):
        return _mistake(tree, place.path, f"got {show_value(value)}, expected settings with type: {one_of(options)}")
    if "type" not in value:
        return _mistake(tree, (*place.path, "type"), f"missing; expected one of {one_of(options)}")
    found = value["type"]
    text = f"got {show_value(found)}, expected one of {one_of(options)}{hint_for_value(found, options)}"
    return _mistake(tree, (*place.path, "type"), text)
