"""Reading torch files of every age without trust: weights_only=True, and stand-ins for what checkpoints hold beside.

Names that are neither torch's nor on the lists of torch_stand_ins are refused before torch opens the file. What torch
2.6 leaves unchecked, the sizes of storages and what items are set on, is checked here, too.
"""

import pickle
import re
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch

from detres.files.inert import Allowance, Refused, canonical, in_python_3, settle
from detres.files.pickle_scan import DamagedPickle, Scan, scan_pickle, shown
from detres.files.restricted_pickle import UnsafeFileError, damaged, refuse_unknown
from detres.files.torch_stand_ins import CONFIGS, torch_stand_ins
from detres.files.trouble import is_of_the_machine

# What torch's own reader builds by itself; it decides again when it comes to them.
_TORCH = re.compile(
    r"torch\.((cuda\.)?[A-Z]\w*(Storage|Tensor)|storage\.(Typed|Untyped)Storage|Tensor|Size|device|bool|"
    r"b?float\d\w*|complex\d+|q?u?int\d\w*|per_\w+|nn\.parameter\.Parameter|_tensor\._rebuild_from_type_v2|"
    r"serialization\._get_layout|_utils\._rebuild_(tensor(_v2|_v3)?|parameter(_with_state)?|qtensor|sparse_tensor|"
    r"meta_tensor_no_storage|device_tensor_from_cpu_tensor))"
)
_BY_TORCH = ("collections.OrderedDict", "collections.Counter")
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number with which torch's files before 1.6 begin
_LOCK = threading.Lock()  # torch's list of safe names is the process's


def read_torch(path: str | Path, map_location: str | torch.device = "cpu") -> Any:
    """What torch.load gives for a file by torch.save, zip (since 1.6) or older; tensors are on `map_location`.

    Objects of foreign classes that are known to hold data only are Foreign (their state as data), configurations are
    dicts, paths and versions are strings. Raises UnsafeFileError for all others, ValueError for what is no whole torch
    file, and errors of the machine (trouble) as they are.
    """
    path = Path(path)
    with path.open("rb") as file:
        return _read(path, file, map_location)


def _read(path: Path, file: BinaryIO, map_location: str | torch.device) -> Any:
    size = path.stat().st_size
    try:
        names = _names(file, size)
        allowance = Allowance(2 * size)
        table = torch_stand_ins(allowance)
        refuse_unknown(path, {name for name in names if _TORCH.fullmatch(name) is None}, {*table, *_BY_TORCH})
        found = {name: table[canonical(name)] for name in names if canonical(name) in table}
        with _only(found):
            content = torch.load(path, map_location=map_location, weights_only=True)
        return settle(content, allowance)
    except UnsafeFileError:
        raise
    except Refused as error:
        raise ValueError(f"{path}: {error}; save the model's state_dict() alone, by torch.save") from error
    except Exception as error:  # an unpickler fails in every way on damaged files
        if is_of_the_machine(error):
            raise
        raise _explained(path, error) from error


def _explained(path: Path, error: Exception) -> ValueError:
    """The error for what torch.load raised."""
    if not isinstance(error, pickle.UnpicklingError):
        return damaged(path, "torch file", error)
    if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return UnsafeFileError(path, {asked[1]})
    # Around its reason torch tells how to read the file without protection.
    reason = re.search(r"WeightsUnpickler error: (.*)", str(error))
    return damaged(path, "torch file", pickle.UnpicklingError(reason[1]) if reason else error)


@contextmanager
def _only(stand_ins: dict[str, Any]) -> Iterator[None]:
    """Let torch know these names beside its own, and none that other libraries made known to it."""
    serialization = torch.serialization
    # Under the name that torch sees: it translates Python 2's, but not numpy's.
    pairs: list[Any] = [(thing, in_python_3(name)) for name, thing in stand_ins.items()]
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles of other protocols, which it then refuses anyway
        others = serialization.get_safe_globals()
        serialization.clear_safe_globals()
        serialization.add_safe_globals(pairs)
        try:
            yield
        finally:
            # Reading can import parts of torch, which make names known that are to stay.
            others += [known for known in serialization.get_safe_globals() if known not in pairs]
            serialization.clear_safe_globals()
            serialization.add_safe_globals(others)


def _names(file: BinaryIO, size: int) -> set[str]:
    """What the file's pickles look up, after a check of all that torch leaves unchecked."""
    head = file.read(32)
    file.seek(0)
    if not head:
        raise DamagedPickle("the file is empty")
    if head.startswith(b"PK"):
        return _names_in_zip(file)
    if head[2 : 2 + len(_LEGACY)] != _LEGACY:
        raise _foreign_format(file, head)
    # number, version and system; then the content; then the storages' keys
    scans = [scan_pickle(file, size) for _ in range(5)]
    for scan in scans:
        _check_filled(scan)
    return set().union(*(scan.names for scan in scans))


def _names_in_zip(file: BinaryIO) -> set[str]:
    with zipfile.ZipFile(file) as archive:
        sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
        if "constants.pkl" in sizes:
            raise Refused("is a TorchScript program")
        if len(sizes) != len(archive.infolist()):
            raise DamagedPickle("two parts of one name")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise Refused("is a compressed zip file")
        inside = [entry for entry in archive.namelist() if entry.partition("/")[2] == "data.pkl"]
        if not inside:
            raise DamagedPickle("no data.pkl in the zip file")
        content = archive.read(inside[0])
    if content[:1] == b"\x80" and content[1:2] > b"\x02":
        raise Refused(f"is written in pickle protocol {content[1]}, torch reads the default, 2, only")
    scan = scan_pickle(BytesIO(content), len(content))
    _check_filled(scan)
    for storage in scan.storages:
        _check_storage(storage, sizes)
    return scan.names


def _check_filled(scan: Scan) -> None:
    """Items may be set on mappings only; torch before 2.10 sets them on tensors, too."""
    known = {"dict", *_BY_TORCH, *CONFIGS, "collections.defaultdict"}
    if wrong := scan.filled - known:
        raise DamagedPickle(f"items set on {wrong.pop() or 'no mapping'}")


def _check_storage(identity: Any, sizes: dict[str, int]) -> None:
    """A tensor's storage must be as long as the record that holds it."""
    if not isinstance(identity, tuple) or len(identity) != 5 or not isinstance(identity[4], int):
        raise DamagedPickle(f"a tensor stored as {shown(identity)}")
    kind, key, count = str(identity[1]).rpartition(".")[2], str(identity[2]), identity[4]
    width = 1 if kind == "UntypedStorage" else torch.serialization.StorageType(kind).dtype.itemsize
    if sizes.get(f"data/{key}") != count * width:
        raise DamagedPickle(f"storage {key} needs {count * width} bytes, found {sizes.get(f'data/{key}')}")


def _foreign_format(file: BinaryIO, head: bytes) -> ValueError:
    if tarfile.is_tarfile(file):
        return Refused("is a tar file, as torch wrote it before 0.2; load and save it again with torch before 2.6")
    if head[:1] == b"\x80":
        return Refused("is a pickle that torch.save did not write; name it .pkl if it holds arrays")
    return DamagedPickle("it does not begin as one")
