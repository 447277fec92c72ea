"""Overrides from the command line: `train.batch_size=8`, `data.train_transforms.0.short=[256]`."""

import re
from collections.abc import Sequence

from detres.config.errors import ConfigError, Mistake, show_value
from detres.config.tree import MAX_DEPTH, OVERRIDE, Node, merge
from detres.config.yaml_reader import parse

_KEY = re.compile(r"\w[\w-]*(?:\.\w[\w-]*)*")


def parse_overrides(overrides: Sequence[str]) -> Node:
    """One tree of all `key=value` texts, later ones on top. Raises ConfigError that names each malformed one.

    They are merged into the configuration together, so the order of `backbone.type=vgg backbone.depth=13` is free.
    """
    tree = Node({}, OVERRIDE)
    mistakes: list[Mistake] = []
    for text in overrides:
        try:
            tree = merge(tree, _parse_override(text))
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return tree


def _parse_override(text: str) -> Node:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not _KEY.fullmatch(key) or key.count(".") > MAX_DEPTH:
        expected = "expected key=value with a dotted key, for instance train.batch_size=8"
        raise ConfigError([Mistake(OVERRIDE, "", f"got {show_value(text)}, {expected}")])
    try:
        node = parse(value, lambda line: OVERRIDE)
    except ConfigError as error:
        raise ConfigError([Mistake(OVERRIDE, key, f"got {show_value(value)}: {error.mistakes[0].text}")]) from error
    for part in reversed(key.split(".")):
        node = Node({part: node}, OVERRIDE)
    return node
