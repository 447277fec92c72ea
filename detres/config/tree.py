"""The configuration before it is checked: a tree of values that know where they were written, and its merging."""

from dataclasses import dataclass
from typing import TypeAlias

from detres.config.errors import ConfigError, Mistake

OVERRIDE = "override"
MAX_DEPTH = 100  # of lists and mappings in each other
MAX_BITS = 1024  # of a whole number; Python does not even write out those of thousands of digits
Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True)
class Node:
    """A value and its origin: "file:line", "override", or the name of another source."""

    value: "dict[str, Node] | list[Node] | Scalar"
    origin: str

    def at(self, path: Path) -> "Node | None":
        """The node below this one at `path`, or None where the tree has nothing of its own.

        One value where a list may stand is its own item 0, as in the schema (fields.OneOrMore).
        """
        node: Node = self
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                node = node.value[str(part)]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            elif part != 0 or isinstance(node.value, list):
                return None
        return node

    def nearest(self, path: Path) -> "Node":
        """The node at `path`, or the closest one above it."""
        return next(node for end in range(len(path), -1, -1) if (node := self.at(path[:end])) is not None)


def plain(node: Node) -> object:
    """The values alone, in dicts and lists."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def from_plain(value: object, origin: str, depth: int = 0) -> Node:
    """A tree of plain containers, all of one origin. Raises ConfigError for values of other kinds."""
    if depth > MAX_DEPTH:
        raise ConfigError([Mistake(origin, "", "nested too deeply to be a configuration")])
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return Node({key: from_plain(child, origin, depth + 1) for key, child in value.items()}, origin)
    if isinstance(value, list | tuple):
        return Node([from_plain(child, origin, depth + 1) for child in value], origin)
    too_long = isinstance(value, int) and value.bit_length() > MAX_BITS
    if too_long or not (value is None or isinstance(value, str | int | float | bool)):
        text = f"holds a {type(value).__name__}, expected text, numbers, lists, and mappings with names"
        raise ConfigError([Mistake(origin, "", text)])
    return Node(value, origin)


def merge(base: Node, over: Node, key: str = "") -> Node:
    """`over` on top of `base`: mappings merge key by key, all else is replaced.

    A mapping whose `type` differs from the base's replaces it whole: settings of one kind mean nothing to another.
    An override may reach into a list by index. Raises ConfigError for an index outside the list.
    """
    if not isinstance(over.value, dict):
        return over
    if isinstance(base.value, list) and over.origin == OVERRIDE and all(part.isdecimal() for part in over.value):
        return _merge_items(base.value, over.value, key)
    if not isinstance(base.value, dict) or _type_changes(base.value, over.value):
        return over
    merged = dict(base.value)
    for name, child in over.value.items():
        merged[name] = merge(merged[name], child, f"{key}.{name}" if key else name) if name in merged else child
    # A key missing here is missing in the file, whatever the command line changed beside it.
    return Node(merged, base.origin if over.origin == OVERRIDE else over.origin)


def _type_changes(base: dict[str, Node], over: dict[str, Node]) -> bool:
    return "type" in base and "type" in over and base["type"].value != over["type"].value


def _merge_items(base: list[Node], over: dict[str, Node], key: str) -> Node:
    merged = list(base)
    for name, child in over.items():
        if len(name) > 9 or int(name) >= len(base):
            expected = f"0 to {len(base) - 1}" if base else "none, the list is empty"
            raise ConfigError([Mistake(OVERRIDE, f"{key}.{name}", f"got list index {name}, expected {expected}")])
        merged[int(name)] = merge(merged[int(name)], child, f"{key}.{name}")
    return Node(merged, OVERRIDE)
