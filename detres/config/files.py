"""Finding configuration files and reading them with what they inherit through `base:`."""

from difflib import get_close_matches
from functools import reduce
from pathlib import Path

from detres.config.errors import ConfigError, Mistake, show_value
from detres.config.tree import Node, merge
from detres.config.yaml_reader import parse

MAX_BYTES = 1 << 20  # of a configuration file
MAX_BASES = 50  # one above the other


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
    for candidate in (place / _at_home(option) for place in (beside, folder) for option in named if option):
        if _is_file(candidate):
            return candidate.resolve()
    shipped = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))
    by_name = {Path(shipped_name).name: shipped_name for shipped_name in reversed(shipped)}
    near = get_close_matches(name, shipped, 1, 0.8)
    near = near or [by_name[match] for match in get_close_matches(Path(name).name, by_name, 1)]
    hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(n for n in shipped if '/' not in n)}"
    places = list(dict.fromkeys(str(place / name) for place in (beside, folder)))
    looked = f"neither {' nor '.join(places)} is a file" if places[1:] else f"{places[0]} is no file"
    looked = looked if len(name) < 200 else "no file has such a name"
    raise ConfigError([Mistake(where, key, f"no configuration {show_value(name)}: {looked}; {hint}")])


def _at_home(name: str) -> Path:
    """The path, its ~ replaced where there is such a user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be looked into
        return False


def read_with_bases(path: Path) -> tuple[Node, list[Path]]:
    """The merged tree of a file and its bases, and all files read, bases first.

    `base:` is a path or a list of paths (later ones on top), relative to the file that names them, or names of
    shipped configurations. Raises ConfigError for unreadable files, bad YAML, and a chain of bases that closes or is
    longer than MAX_BASES.
    """
    return _read_with_bases(path, (), {})


def _read_with_bases(
    path: Path, chain: tuple[Path, ...], known: dict[Path, tuple[Node, list[Path]]]
) -> tuple[Node, list[Path]]:
    """`chain` are the files that led here; `known` those read so far: bases named twice are not read 2^n times."""
    if path in known:
        return known[path]
    if len(chain) > MAX_BASES:
        raise ConfigError([Mistake(display(path), "base", f"more than {MAX_BASES} bases one above the other")])
    if path in chain:
        circle = " -> ".join(display(step) for step in (*chain[chain.index(path) :], path))
        raise ConfigError([Mistake(display(path), "base", f"the chain of bases closes a circle: {circle}; break it")])
    own = _read(path)
    assert isinstance(own.value, dict), "_read returns a mapping"
    bases = _bases(own.value.get("base"))
    own = Node({key: child for key, child in own.value.items() if key != "base"}, own.origin)
    trees, files = [], []
    for base, origin in bases:
        tree, read = _read_with_bases(_find(base, path.parent, origin, "base"), (*chain, path), known)
        trees.append(tree)
        files += [file for file in read if file not in files]
    known[path] = reduce(merge, [*trees, own]), [*files, path]
    return known[path]


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
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError([Mistake(name, "", f"larger than {MAX_BYTES} bytes, which no configuration needs to be")])
        text = content.decode("utf-8-sig")
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
