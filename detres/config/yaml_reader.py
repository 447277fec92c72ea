"""YAML text to a tree of values with origins.

Scalars follow YAML 1.2's core schema, so 1e-4 is a number and `no` and `on` are text (PyYAML's 1.1 says otherwise).
Duplicate keys, tags that build objects and documents that grow without bound through aliases are refused.
"""

import re
from collections.abc import Callable

import yaml

from detres.config.errors import ConfigError, Mistake
from detres.config.tree import MAX_BITS, MAX_DEPTH, Node, Scalar

MAX_VALUES = 200_000  # after the expansion of aliases
_TAG = "tag:yaml.org,2002:"
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


def parse(text: str, origin_of_line: Callable[[int], str]) -> Node:
    """The tree of one YAML document; `origin_of_line(n)` names line n (from 1). Raises ConfigError."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = origin_of_line(mark.line + 1 if mark else 1)
        raise ConfigError([Mistake(where, "", f"not valid YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([Mistake(origin_of_line(1), "", f"not valid YAML: {reason}")]) from error
    except RecursionError as error:
        raise ConfigError([Mistake(origin_of_line(1), "", "nested too deeply to be a configuration")]) from error
    if root is None:
        return Node(None, origin_of_line(1))
    return _Converter(origin_of_line).convert(root, root.start_mark.line + 1, ())


class _Converter:
    """Turns PyYAML's nodes into ours; one instance per document, so that it can bound what aliases expand to."""

    def __init__(self, origin_of_line: Callable[[int], str]) -> None:
        self.origin_of_line = origin_of_line
        self.num_values = 0

    def convert(self, node: yaml.Node, line: int, above: tuple[yaml.Node, ...]) -> Node:
        """`line` is where the value's key stands; `above` are the nodes it lies in."""
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            self.refuse(line, f"expands to more than {MAX_VALUES} values; write it without nested aliases")
        if any(node is outer for outer in above):
            self.refuse(line, "an alias (*name) refers to a value that contains it")
        if len(above) > MAX_DEPTH:
            self.refuse(line, "nested too deeply to be a configuration")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            self.refuse(line, f"the tag {node.tag} is not supported; write a plain list or mapping")
        origin, above = self.origin_of_line(line), (*above, node)
        if isinstance(node, yaml.MappingNode):
            return Node(self.mapping(node, above), origin)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.convert(item, item.start_mark.line + 1, above) for item in node.value], origin)
        assert isinstance(node, yaml.ScalarNode), "YAML has three kinds of nodes"
        return Node(self.scalar(node, line), origin)

    def mapping(self, node: yaml.MappingNode, above: tuple[yaml.Node, ...]) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                self.refuse(line, f"keys are text, got {shown}; put it in quotes if it is meant as text")
            key = key_node.value
            if key == "<<":
                self.refuse(line, "merge keys (<<) are not supported; put what is shared into a base: file")
            if key in found:
                self.refuse(line, f"key `{key}` occurs twice (first at {found[key].origin}); keep one")
            found[key] = self.convert(value_node, line, above)
        return found

    def scalar(self, node: yaml.ScalarNode, line: int) -> Scalar:
        kind, text = node.tag.removeprefix(_TAG), node.value
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                number = int(text, 0 if text.startswith(("0o", "0x")) else 10)
                if number.bit_length() > MAX_BITS:
                    raise ValueError(f"{number.bit_length()} bits")
                return number
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (ValueError, KeyError):
            bounds = f" of at most {MAX_BITS} bits" if kind == "int" else ""
            self.refuse(line, f"got {text[:60]!r}, which is not a YAML {kind}{bounds}")
        if kind != "str":
            self.refuse(line, f"the tag {node.tag} is not supported; write a plain value")
        return str(text)

    def refuse(self, line: int, text: str) -> None:
        raise ConfigError([Mistake(self.origin_of_line(line), "", text)])
