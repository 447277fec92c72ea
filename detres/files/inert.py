"""What an unpickler is given in place of the things a pickle names: nothing here runs anything that a file says.

Numbers and text become arrays, through placeholders (Array, Dtype) that `settle` replaces once everything is read. An
object of a foreign class becomes a Foreign, which keeps its state as data.
"""

import math
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from detres.files.pickle_scan import shown

_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|\?|[SU][1-9]\d{0,8})")
_MOVED = {"__builtin__.long": "builtins.int", "__builtin__.unicode": "builtins.str"}
_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)


class Refused(ValueError):
    """What a file asks for is not given; the message says why, without the file's name."""


class Allowance:
    """The bytes that may still be built: sharing must not make gigabytes of a small file."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Refused("builds more data than a file of this size can hold")


class Builder:
    """A function as an unpickler gets it: to be called or named; unlike a function, a pickle cannot change it."""

    __slots__ = ("_build", "name")
    name: str
    _build: Callable[..., Any]

    def __init__(self, name: str, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "_build", build)

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self.name} is fixed")

    def __setstate__(self, state: object) -> None:
        raise Refused(f"changes {self.name}")


def reference(name: str) -> Builder:
    """A name that may stand there (the `list` of a defaultdict) but not be called."""

    def refuse(*arguments: object) -> Any:
        raise Refused(f"calls {name}")

    return Builder(name, refuse)


class Foreign:
    """An object of a class that was not imported: what it was made with and its state, as plain data.

    name       module.attribute of the class
    arguments  what it was called with
    state      what it would have been restored from, usually a dict of its attributes
    """

    __slots__ = ("arguments", "state")
    name = "unknown"
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> "Foreign":
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<{self.name}, not imported>"


def foreign_class(name: str) -> type[Foreign]:
    """The stand-in for the class of that name."""
    return type("Foreign", (Foreign,), {"__slots__": (), "name": name})


class Dtype:
    """Placeholder of a numpy dtype: numbers, truth values and text, never objects or records."""

    __slots__ = ("dtype",)
    dtype: np.dtype[Any]

    def __new__(cls, code: Any = None, align: object = False, copy: object = False) -> "Dtype":
        if not isinstance(code, str) or _DTYPE.fullmatch(code) is None:
            raise Refused(f"holds an array of type {shown(code)}, expected numbers or text")
        made = super().__new__(cls)
        made.dtype = np.dtype(code)
        return made

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, sub-array, field names, fields, item size, alignment, flags, maybe metadata)
        order, *parts = state[1:5]
        if parts != [None, None, None]:
            raise Refused("holds an array of records, expected numbers or text")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class Array:
    """Placeholder of an ndarray; its bytes must be as many as its shape and type need."""

    __slots__ = ("array",)
    array: "np.ndarray[Any, Any] | None"

    def __new__(cls) -> "Array":
        made = super().__new__(cls)
        made.array = None
        return made

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        if self.array is not None or not isinstance(dtype, Dtype) or not isinstance(shape, tuple):
            raise Refused("holds an array that is put together wrongly")
        self.array = _view(data, dtype.dtype, shape).reshape(shape, order=order)


def _view(data: Any, dtype: "np.dtype[Any]", shape: tuple[Any, ...]) -> "np.ndarray[Any, Any]":
    """The elements in `data`, not copied."""
    if isinstance(data, str):
        data = data.encode("latin-1")  # as Python 2 wrote it
    if not isinstance(data, bytes | bytearray) or not all(type(length) is int and length >= 0 for length in shape):
        raise Refused(f"holds an array of {type(data).__name__} and shape {shown(shape)}, expected bytes and lengths")
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise Refused(f"holds an array of shape {shape} and type {dtype}: needs {needed} bytes, found {len(data)}")
    return np.frombuffer(data, dtype) if needed else np.empty(0, dtype)


def numpy_stand_ins() -> dict[str, Any]:
    """What numpy's own pickles name, in the spelling of numpy 2 (see `canonical`)."""

    def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
        if kind is not Array or shape != (0,):
            raise Refused("holds a subclass of numpy's array")
        return Array()

    def frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
        made = Array()
        made.fill(data, dtype, shape, "C" if order == "K" else order)
        if axes is not None and made.array is not None:
            made.array = made.array.transpose(axes)
        return made

    def scalar(dtype: Any, data: Any) -> Any:
        if not isinstance(dtype, Dtype):
            raise Refused("holds a number that is put together wrongly")
        return _view(data, dtype.dtype, ())[0]

    functions: dict[str, Callable[..., Any]] = {
        "numpy._core.multiarray._reconstruct": reconstruct,
        "numpy._core.multiarray.scalar": scalar,
        "numpy._core.numeric._frombuffer": frombuffer,
    }
    builders = {name: Builder(name, function) for name, function in functions.items()}
    return {"numpy.ndarray": Array, "numpy.dtype": Dtype, **builders}


def in_python_3(name: str) -> str:
    """The name as Python 3 has it, where Python 2 (or protocols 0 to 2, which are written for it) had another."""
    if name in _MOVED:
        return _MOVED[name]
    module, _, rest = name.partition(".")
    return f"builtins.{rest}" if module == "__builtin__" else name


def canonical(name: str) -> str:
    """One spelling for what has several, Python 2's and 3's, numpy 1's and 2's: the newer one."""
    name = in_python_3(name)
    return f"numpy._core.{name.removeprefix('numpy.core.')}" if name.startswith("numpy.core.") else name


def settle(root: Any, allowance: Allowance) -> Any:
    """The same content without placeholders: arrays own their data, keys that are bytes become strings."""
    return _Settling(allowance).settle(root)


class _Settling:
    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._done: dict[int, tuple[Any, Any]] = {}  # with what was replaced, so that its id stays its own

    def settle(self, value: Any) -> Any:
        if id(value) in self._done:
            return self._done[id(value)][1]
        kind = type(value)
        if kind is Array:
            return self._keep(value, self._own(value))
        if kind is Dtype:
            return value.dtype
        if kind is OrderedDict:
            ordered: Any = self._mapping(value, self._keep(value, OrderedDict()))
            if type(metadata := vars(value).get("_metadata")) in _MAPPINGS:  # what state dicts carry
                ordered._metadata = self.settle(metadata)
            return ordered
        if kind in _MAPPINGS:
            return self._mapping(value, self._keep(value, {}))
        if kind is list:
            settled = self._keep(value, [])
            settled.extend(map(self.settle, value))
            return settled
        if kind in (tuple, set, frozenset):
            return self._keep(value, kind(map(self.settle, value)))
        if isinstance(value, Foreign):
            self._keep(value, value)
            value.arguments, value.state = self.settle(value.arguments), self.settle(value.state)
        if kind is Builder or (isinstance(value, type) and issubclass(value, Foreign)):
            return value.name
        return value

    def _keep(self, value: Any, settled: Any) -> Any:
        self._done[id(value)] = (value, settled)
        return settled

    def _own(self, placeholder: Array) -> "np.ndarray[Any, Any]":
        array, placeholder.array = placeholder.array, None
        if array is None:
            raise Refused("holds an array without its data")
        self._allowance.take(array.nbytes)
        return array.astype(array.dtype.newbyteorder("="), order="K", copy=True)

    def _mapping(self, value: dict[Any, Any], settled: dict[Any, Any]) -> dict[Any, Any]:
        for key, item in dict.items(value):  # past an attribute of an OrderedDict that hides its .items
            name = key.decode("latin-1") if isinstance(key, bytes) else self.settle(key)
            if name in settled:
                raise Refused(f"holds the key {name!r} twice")
            settled[name] = self.settle(item)
        return settled
