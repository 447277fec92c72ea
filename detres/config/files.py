"""Finding configuration files and reading them with what they inherit through `base:`."""

from difflib import get_close_matches
from functools import reduce
from pathlib import Path

from detres.config.errors import ConfigError, Mistake, show_value
from detres.config.tree import Node, merge
from detres.config.yaml_reader import parse


def shipped_configs() -> Path:
    """The folder of the configurations that come with detres: of the checkout, or of the installed package."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str) -> Path:
    """The file that `--config NAME` means: NAME as a path, else NAME (".yaml" may be left out) among the shipped ones.

    Raises ConfigError that says where was looked and which names are near.
    """
    return _find(name, Path(), "", "")


def _find(name: str, beside: Path, where: str, key: str) -> Path:
    folder = shipped_configs()
    named = [name] if name.endswith((".yaml", ".yml")) else [name, f"{name}.yaml"]
    for candidate in (place / Path(option).expanduser() for place in (beside, folder) for option in named if option):
        if candidate.is_file():
            return candidate.resolve()
    shipped = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))
    by_name = {Path(shipped_name).name: shipped_name for shipped_name in reversed(shipped)}
    near = get_close_matches(name, shipped, 1, 0.8)
    near = near or [by_name[match] for match in get_close_matches(Path(name).name, by_name, 1)]
    hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(n for n in shipped if '/' not in n)}"
    looked = f"neither {beside / name} nor {folder / name} is a file"
    raise ConfigError([Mistake(where, key, f"no configuration {show_value(name)}: {looked}; {hint}")])


def read_with_bases(path: Path, chain: tuple[Path, ...] = ()) -> tuple[Node, list[Path]]:
    """The merged tree of a file and its bases, and all files read, bases first.

    `base:` is a path or a list of paths (later ones on top), relative to the file that names them, or names of
    shipped configurations. Raises ConfigError for unreadable files, bad YAML, and a chain of bases that closes.
    """
    if path in chain:
        circle = " -> ".join(display(step) for step in (*chain[chain.index(path) :], path))
        raise ConfigError([Mistake(display(path), "base", f"the chain of bases closes a circle: {circle}; break it")])
    own = _read(path)
    assert isinstance(own.value, dict), "_read returns a mapping"
    bases = _bases(own.value.get("base"))
    own = Node({key: child for key, child in own.value.items() if key != "base"}, own.origin)
    trees, files = [], []
    for base, origin in bases:
        tree, read = read_with_bases(_find(base, path.parent, origin, "base"), (*chain, path))
        trees.append(tree)
        files += [file for file in read if file not in files]
    return reduce(merge, [*trees, own]), [*files, path]


def _bases(node: Node | None) -> list[tuple[str, str]]:
    """The names in `base:` with their origins."""
    if node is None or node.value is None:
        return []
    items = node.value if isinstance(node.value, list) else [node]
    for item in items:
        if not isinstance(item.value, str):
            text = f"got {show_value(item.value)}, expected the path of a YAML file or a list of paths"
            raise ConfigError([Mistake(item.origin, "base", text)])
    return [(str(item.value), item.origin) for item in items]


def _read(path: Path) -> Node:
    name = display(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([Mistake(name, "", f"cannot be read: {reason}")]) from error
    root = parse(text, lambda line: f"{name}:{line}")
    if not isinstance(root.value, dict):
        found = "an empty file" if root.value is None else type(root.value).__name__
        raise ConfigError([Mistake(root.origin, "", f"got {found}, expected a mapping such as `train: ...`")])
    return root


def display(path: Path) -> str:
    """A path as messages name it: relative to the current folder when it lies below it."""
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)
