"""What the schema knows about its keys: which group a place belongs to, what is expected there, what is spelt alike."""

from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args, get_origin

from detres.config.errors import show_value
from detres.config.fields import Settings, type_tags
from detres.config.schema import Config
from detres.config.tree import Path

_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}


class Place(NamedTuple):
    """A place in the configuration: its path, the groups of settings that may stand there, its annotation."""

    path: Path
    groups: tuple[type[Settings], ...]
    annotation: Any


def follow(loc: Path) -> Place:
    """The place of a pydantic error location, in which each union is followed by the `type` that chose its member."""
    place = Place((), (Config,), Config)
    for part in loc:
        if isinstance(part, str) and len(place.groups) > 1:
            chosen = tuple(group for group in place.groups if part in type_tags(group))
            place = place._replace(groups=chosen)
        else:
            place = _step(place, part)
    return place


def _step(place: Place, part: str | int) -> Place:
    path = (*place.path, part)
    if isinstance(part, int):
        items = get_args(place.annotation) if get_origin(place.annotation) is list else ()
        return Place(path, place.groups, items[0] if items else place.annotation)
    field = place.groups[0].model_fields.get(part) if place.groups else None
    if field is None:
        return Place(path, (), None)
    return Place(path, settings_in(field.annotation), field.annotation)


def settings_in(annotation: Any) -> tuple[type[Settings], ...]:
    """The groups of settings that an annotation admits, through Optional, Annotated, unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return (annotation,)
    if get_origin(annotation) is Literal:
        return ()
    return tuple(group for argument in get_args(annotation) for group in settings_in(argument))


def expected_type(annotation: Any) -> str:
    """An annotation in words: "a number", "one of a, b", "settings (depth, norm, ...)"."""
    groups = settings_in(annotation)
    if len(groups) > 1:
        return f"settings with type: {one_of(tag for group in groups for tag in type_tags(group))}"
    if groups:
        return f"settings ({', '.join(groups[0].model_fields)})"
    if get_origin(annotation) is Literal:
        return f"one of {one_of(get_args(annotation))}"
    if get_origin(annotation) is list:
        return "a list"
    options = [_TYPE_NAMES[option] for option in (annotation, *get_args(annotation)) if option in _TYPE_NAMES]
    return options[0] if options else "a value"


def one_of(options: Any) -> str:
    """Options for a message: "a, b or c"."""
    shown = [str(option) for option in options]
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def hint_for_value(value: object, options: list[str]) -> str:
    """ "; did you mean x?" when one of the options is spelt like the value, else nothing."""
    near = get_close_matches(str(value), options, 1)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_key(loc: Path, path: Path, value: object) -> str:
    """What to say about a key that its group does not have.

    That another type of the group has it, else the nearest key here, else the same key elsewhere. `loc` is pydantic's
    location, `path` the key as it was written.
    """
    group, parent, key = follow(loc[:-1]).groups[0], path[:-1], str(path[-1])
    got, where = f"unknown key, got {show_value(value)}", ".".join(map(str, parent)) or "the top level"
    if takers := _types_with(key, group, loc):
        own = f"{where} of type {one_of(type_tags(group))} takes {', '.join(group.model_fields)}"
        return f"{got}; it belongs to type {one_of(takers)}, {own}"
    if near := get_close_matches(key, group.model_fields, 1):
        return f"{got}; did you mean {'.'.join(map(str, (*parent, near[0])))}?"
    elsewhere = _elsewhere(key)
    hint = f"did you mean {one_of(elsewhere)}? " if elsewhere else ""
    return f"{got}; {hint}{where} takes {', '.join(group.model_fields)}"


def _types_with(key: str, group: type[Settings], loc: Path) -> list[str]:
    """The values of `type` that could stand in the place of `group`'s and have `key`."""
    variants = follow(loc[:-2]).groups  # before `type` chose one of them, if there is a choice
    if group not in variants:
        return []
    return [tag for variant in variants if key in variant.model_fields for tag in type_tags(variant)]


def _elsewhere(key: str) -> list[str]:
    """Up to three dotted keys of the whole schema that end in `key`, the shortest first."""
    return sorted((k for k in all_keys() if k.endswith(f".{key}")), key=lambda k: (k.count("."), k))[:3]


@lru_cache(maxsize=1)
def all_keys() -> tuple[str, ...]:
    """Every dotted key that some configuration may have; list items are written `*`."""
    return tuple(dict.fromkeys(_keys_below(Config, "")))


def _keys_below(group: type[Settings], prefix: str) -> Iterator[str]:
    for name, field in group.model_fields.items():
        yield prefix + name
        star = "*." if get_origin(field.annotation) is list else ""
        for child in settings_in(field.annotation):
            yield from _keys_below(child, f"{prefix}{name}.{star}")
