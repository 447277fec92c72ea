"""Reading .pkl files without trust: arrays and plain containers come out, nothing that they name is imported or run."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from detres.files.inert import Allowance, Builder, Refused, canonical, numpy_stand_ins, reference, settle
from detres.files.pickle_scan import DamagedPickle, scan_pickle, shown
from detres.files.trouble import is_of_the_machine

_REMEDY = (
    "only arrays, tensors, numbers, text and plain containers are read; let the program that wrote it save "
    "the state_dict() alone"
)


class UnsafeFileError(ValueError):
    """A file that could be read only by running code of others.

    names  what it asked for, as module.attribute
    """

    def __init__(self, path: Path, names: set[str]) -> None:
        self.names = tuple(sorted(names))
        listed = ", ".join(self.names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        hint = "; tensors are read from what torch.save writes" if any("torch" in name for name in names) else ""
        super().__init__(f"{path}: asks for foreign code ({listed}); nothing of it was run. Here {_REMEDY}{hint}")


def read_pickle(path: str | Path) -> Any:
    """The content of a pickle of any protocol, from Python 2 or 3: arrays, numbers, text, containers.

    Keys that Python 2 wrote as bytes are strings, arrays are numpy's own, writable and in native byte order. Raises
    UnsafeFileError when the file asks for anything else, ValueError when it is no whole pickle, and as they are errors
    of the machine (trouble).
    """
    path = Path(path)
    with path.open("rb") as file:
        return _read(path, file)


def _read(path: Path, file: BinaryIO) -> Any:
    size = path.stat().st_size
    try:
        _require_pickle(file.read(4))
        file.seek(0)
        names = scan_pickle(file, size).names
        allowance = Allowance(2 * size)  # bytes that come as text are built twice
        stand_ins = {**numpy_stand_ins(), **python_stand_ins(allowance)}
        refuse_unknown(path, names, set(stand_ins))
        file.seek(0)
        return settle(_Unpickler(file, stand_ins).load(), allowance)
    except UnsafeFileError:
        raise
    except Refused as error:
        raise ValueError(f"{path}: {error}; {_REMEDY}") from error
    except Exception as error:  # an unpickler fails in every way on damaged files
        if is_of_the_machine(error):
            raise
        raise damaged(path, "pickle", error) from error


def refuse_unknown(path: Path, names: set[str], known: set[str]) -> None:
    """Raise UnsafeFileError for the names that are not known."""
    if unknown := {name for name in names if canonical(name) not in known}:
        raise UnsafeFileError(path, unknown)


def damaged(path: Path, kind: str, error: BaseException) -> ValueError:
    """The error for a file that is not what it should be."""
    if isinstance(error, RecursionError):
        return ValueError(f"{path}: nested too deeply to be weights; export them again as a flat dict")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ValueError(f"{path}: truncated or not a {kind} ({lines[0]:.200}); copy or download it again")


class _Unpickler(pickle.Unpickler):
    """Gives stand-ins for the names in the table and nothing else."""

    def __init__(self, file: Any, stand_ins: dict[str, Any]) -> None:
        super().__init__(file, encoding="latin1")
        self._stand_ins = stand_ins

    def find_class(self, module: str, name: str) -> Any:
        """The scan has found them all before; this holds even if it had not."""
        try:
            return self._stand_ins[canonical(f"{module}.{name}")]
        except KeyError:
            raise Refused(f"asks for {module}.{name}") from None

    def persistent_load(self, identity: object) -> Any:
        raise Refused("refers to tensors that are stored outside of it (a part of a torch file?)")


def python_stand_ins(allowance: Allowance) -> dict[str, Any]:
    """Python's own, by stand-ins that take plain data and count what they build."""

    def ordered(items: Any = ()) -> OrderedDict[Any, Any]:
        return OrderedDict(_counted(items, (list, tuple, dict)))

    def encode(text: Any, encoding: Any = None) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise Refused(f"holds text in the encoding {shown(encoding)}, expected latin1")
        return str.encode(_counted(text, (str,)), "latin-1")

    def array(data: Any = b"", encoding: Any = "latin-1") -> bytearray:
        return bytearray(encode(data, encoding) if isinstance(data, str) else _counted(data, (bytes,)))

    def _counted(items: Any, kinds: tuple[type, ...]) -> Any:
        if type(items) not in kinds:
            raise Refused(f"builds a container from a {type(items).__name__}")
        allowance.take(len(items))
        return items

    functions: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": ordered,
        "collections.defaultdict": lambda factory=None: {},
        "collections.deque": lambda items=(), length=None: list(_counted(items, (list, tuple))),
        "_codecs.encode": encode,
        "builtins.set": lambda items=(): set(_counted(items, (list, tuple))),
        "builtins.frozenset": lambda items=(): frozenset(_counted(items, (list, tuple))),
        "builtins.bytearray": array,
        "builtins.bytes": lambda: b"",
        "builtins.complex": lambda real=0.0, imaginary=0.0: complex(float(real), float(imaginary)),
    }
    names = ("list", "dict", "tuple", "int", "float", "str", "bool", "object")
    references = {f"builtins.{name}": reference(f"builtins.{name}") for name in names}
    return {**references, **{name: Builder(name, function) for name, function in functions.items()}}


def _require_pickle(head: bytes) -> None:
    if head.startswith(b"PK"):
        raise Refused("is a zip file, not a pickle; if torch.save wrote it, name it .pth")
    if not head:
        raise DamagedPickle("the file is empty")
