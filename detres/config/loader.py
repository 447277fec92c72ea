"""From the name of a YAML file and overrides to a checked Config that knows where each of its values came from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detres.config.check import check
from detres.config.errors import ConfigError, Mistake, show_value
from detres.config.files import find_config, read_with_bases
from detres.config.overrides import parse_overrides
from detres.config.schema import Config
from detres.config.tree import Node, from_plain, merge

DEFAULT = "default"


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and its history.

    config   the checked settings
    origins  for each dotted key of a value: "file:line", "override" or "default"
    files    all YAML files that were read, bases first, the named one last
    name     of the named file, without its suffix
    """

    config: Config
    origins: dict[str, str]
    files: tuple[Path, ...]
    name: str


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read, merge and check a configuration: a path, or the name of a shipped one such as coco_r50.yaml.

    `overrides` are `key=value` texts with dotted keys and YAML values. Raises ConfigError that names, for every
    mistake, the file and line, the key, what was found, what was expected and the nearest valid key.
    """
    path = find_config(str(name_or_path))
    tree, files = read_with_bases(path)
    tree = merge(tree, parse_overrides(overrides))
    config = check(tree)
    return LoadedConfig(config, dict(_origins(config_to_dict(config), tree, ())), tuple(files), path.stem)


def config_to_dict(config: Config) -> dict[str, Any]:
    """All settings in dicts, lists and scalars, for a checkpoint or a YAML file."""
    return config.model_dump(mode="python")


def config_from_dict(
    settings: dict[str, Any], source: str = "the stored configuration", overrides: Sequence[str] = ()
) -> Config:
    """The inverse of config_to_dict; `overrides` as in load_config.

    Raises ConfigError that names `source`, for instance a checkpoint's path.
    """
    tree = from_plain(settings, source)
    if not isinstance(tree.value, dict):
        raise ConfigError([Mistake(source, "", f"got {show_value(settings)}, expected a configuration")])
    return check(merge(tree, parse_overrides(overrides)))


def _origins(value: object, tree: Node, path: tuple[str | int, ...]) -> Iterator[tuple[str, str]]:
    """(dotted key, origin) of every value at or below `path`; a list of plain values is one value."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _origins(child, tree, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _origins(item, tree, (*path, index))
    else:
        node = tree.at(path)
        yield ".".join(map(str, path)), DEFAULT if node is None else node.origin
