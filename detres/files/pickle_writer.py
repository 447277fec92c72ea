"""Writing .pkl files for detectron2: a dict of arrays, text and truth values.

The bytes are laid out here rather than by pickle, because pickle under numpy 2 names modules that numpy before 1.26
does not have; the older names are understood by all. Format: Python's pickletools, protocol 3.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from detres.files.atomic_file import atomic_file

_LONGEST = 2**32  # bytes of one array, in protocol 3
_NUMERIC = re.compile(r"[<>|](b1|[iu][1248]|f[248]|c8|c16)")
_HEAD = b"\x80\x03"
_EMPTY_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
_DTYPE = b"cnumpy\ndtype\n%s\x89\x88\x87R(K\x03%sNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
_TRUTH = {False: b"\x89", True: b"\x88"}


def write_pickle(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a dict (of dicts) from str to numeric numpy arrays, str and bool to `path`, all or nothing.

    Reads with pickle.load under every Python 3 and numpy. Raises TypeError naming the key of anything else.
    """
    _check(content, "")
    with atomic_file(path) as file:
        file.write(_HEAD)
        _write(file, content)
        file.write(b".")


def _check(value: Any, key: str) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(f"{key}[{name!r}]: the key is a {type(name).__name__}, expected str")
            _check(item, f"{key}[{name!r}]")
    elif isinstance(value, np.ndarray):
        if not _NUMERIC.fullmatch(value.dtype.str) or value.nbytes >= _LONGEST:
            raise TypeError(f"{key}: an array of {value.dtype} and {value.nbytes} bytes, expected numbers, below 4 GB")
    elif not isinstance(value, bool | str):
        raise TypeError(f"{key}: a {type(value).__name__}, expected an array (tensor.numpy()), str, bool or dict")


def _write(file: BinaryIO, value: Any) -> None:
    if isinstance(value, Mapping):
        file.write(b"}(")
        for name, item in value.items():
            file.write(_text(name))
            _write(file, item)
        file.write(b"u")
    elif isinstance(value, np.ndarray):
        _write_array(file, value)
    else:
        file.write(_TRUTH[value] if isinstance(value, bool) else _text(value))


def _write_array(file: BinaryIO, array: "np.ndarray[Any, Any]") -> None:
    """An empty array, then its state: version, shape, dtype, not Fortran's order, the bytes."""
    array = np.ascontiguousarray(array).reshape(array.shape)  # which makes (1,) of ()
    order = "<" if array.dtype.byteorder == "=" and np.little_endian else array.dtype.byteorder.replace("=", ">")
    lengths = b"".join(b"I%d\n" % length for length in array.shape)
    file.write(_EMPTY_ARRAY + b"(K\x01(" + lengths + b"t")
    file.write(_DTYPE % (_text(array.dtype.str[1:]), _text(order)))
    file.write(b"\x89B" + array.nbytes.to_bytes(4, "little"))
    file.write(array.reshape(-1).view(np.uint8).data)
    file.write(b"tb")


def _text(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return b"X" + len(content).to_bytes(4, "little") + content
