"""Checkpoints: one file that knows its model, its configuration and its class names.

A checkpoint is a dict of tensors and plain containers, so that reading it never runs foreign code:

format       "detres"
version      1
kind         "detector", "classifier" or "localizer"
config       the resolved configuration
class_names  list of str, one per label
model        state dict
ema          state dict of the averaged weights, or None
optimizer    parameter name -> its optimizer state
scaler       state of the loss scaler; empty unless float16
schedule     state of the learning-rate schedule
progress     step, samples, best, ...
metrics      the last evaluation
unlogged     the losses of the steps since the last line of the log
"""

import errno
import os
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detres.files.atomic_file import atomic_file, atomic_path
from detres.files.restricted import UnsafeFileError, is_of_the_machine, is_out_of_memory, read_torch

FORMAT = "detres"
VERSION = 1
_REQUIRED = ("kind", "config", "class_names", "model")


class CheckpointError(ValueError):
    """A file that cannot be used as a checkpoint: damaged, foreign, or of another model."""


class DamagedCheckpoint(CheckpointError):
    """A file whose bytes are not those that were written: cut off, or changed on the disk; or a folder in its place."""


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state` (plus format and version) to `path`, all or nothing.

    Raises TypeError for anything but tensors and plain containers, and OSError when the file cannot be written
    (disk full, no permission); the previous file at `path` then stays as it was.
    """
    path = Path(path)
    content = {"format": FORMAT, "version": VERSION, **state}
    missing = [key for key in _REQUIRED if key not in content]
    assert not missing, f"a checkpoint needs {missing}"
    check_plain(content, "checkpoint")
    try:
        with atomic_file(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise _write_error(path, error) from error


def load_checkpoint(
    path: str | Path, *, kind: str | None = None, map_location: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Read a checkpoint written by `save_checkpoint`; `kind`, when given, is the kind that is expected.

    Raises FileNotFoundError when there is no such file, DamagedCheckpoint when its bytes have changed, another
    CheckpointError when it is not of detres, of a newer version or of another kind; MemoryError or another OSError when
    the machine cannot read it: the file may be whole then.
    """
    path = Path(path)
    content = _read(path, map_location)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a detres checkpoint ({_describe(content)}); "
            f"foreign weights are loaded through a weights setting, not resumed from"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {content.get('version')}, this detres reads version {VERSION}: "
            f"use the detres that wrote it"
        )
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}: it was not written by a complete run")
    if kind is not None and content["kind"] != kind:
        raise CheckpointError(f"{path} holds a {content['kind']}, expected a {kind}")
    _check_parts(content, path)
    return content


def _check_parts(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that somebody put together wrongly: the parts that every reader relies on."""
    names, ema = content["class_names"], content.get("ema")
    parts = {
        "kind": isinstance(content["kind"], str),
        "config": isinstance(content["config"], dict),
        "class_names": isinstance(names, list | tuple) and all(isinstance(name, str) for name in names),
        "model": _is_state_dict(content["model"]),
        "ema": ema is None or _is_state_dict(ema),
    }
    if wrong := [name for name, right in parts.items() if not right]:
        raise CheckpointError(f"{path}: {wrong[0]} is not what a checkpoint has there; it was not written by detres")


def _is_state_dict(value: object) -> bool:
    """Whether these are tensors with values, by name."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
        for name, tensor in value.items()
    )


def load_model_state(model: torch.nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy `state` into `model`; every name and shape must agree, step counters of norms excepted: nothing needs them.

    Raises CheckpointError naming the first differences: `source` is then of another architecture.
    """
    model.load_state_dict(require_same_shapes(model, state, source))


def require_same_shapes(
    model: torch.nn.Module, state: Mapping[str, Tensor], source: str | Path
) -> Mapping[str, Tensor]:
    """`state` as `model` takes it; CheckpointError when the names or shapes differ. The model may be on device meta."""
    own = model.state_dict()
    counters = [name for name in {**own, **state} if name.endswith("num_batches_tracked")]
    if any((name in own) != (name in state) for name in counters):
        state = {name: tensor for name, tensor in state.items() if name in own}
        state |= {name: own[name] for name in counters if name in own and name not in state}
    lacking = [f"no {name}" for name in own if name not in state]
    foreign = [f"{name} unknown to the model" for name in state if name not in own]
    reshaped = [
        f"{name} has shape {tuple(state[name].shape)}, the model {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems := reshaped + lacking + foreign:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{source} is of another architecture: {'; '.join(problems[:3])}{more}. "
            f"Resume with the configuration of that run, or start a new run from its weights"
        )
    return state


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same checkpoint as `source`, atomically and without extra disk space where links exist.

    Sharing is safe because a checkpoint is never changed in place, only replaced.
    """
    try:
        with atomic_path(target) as temporary:
            temporary.unlink(missing_ok=True)  # of a killed process that had our number
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise _write_error(target, error) from error


def _read(path: Path, map_location: str | torch.device) -> Any:
    if path.is_dir():
        raise DamagedCheckpoint(f"{path} is a folder, expected a checkpoint file such as {path / 'last.pt'}")
    if not path.exists():
        beside = sorted(other.name for other in path.parent.glob("*.pt")) if path.parent.is_dir() else []
        found = f"that folder has {', '.join(beside)}" if beside else f"there are no *.pt files in {path.parent}"
        raise FileNotFoundError(errno.ENOENT, f"no checkpoint here ({found})", str(path))
    try:
        _check_bytes(path)
        return read_torch(path, map_location)
    except UnsafeFileError as error:
        raise DamagedCheckpoint(
            f"{path} is damaged or holds Python objects beside tensors, which are never executed: "
            f"use another checkpoint, or convert it where it came from to a plain state dict"
        ) from error
    except CheckpointError:
        raise
    except (RuntimeError, OSError, MemoryError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if is_of_the_machine(error):
            raise _read_error(path, error) from error
        raise DamagedCheckpoint(
            f"{path} ({path.stat().st_size} bytes) is truncated or not a checkpoint: use another one "
            f"(best.pt, step_*.pt) or copy the file again"
        ) from error


def _check_bytes(path: Path) -> None:
    """Compare every record with its checksum: torch writes these, but reads changed bytes without a word."""
    if not zipfile.is_zipfile(path):
        return  # torch says what it is
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise zipfile.BadZipFile("a compressed record: torch writes none")  # its decompressor may ask for much
            record = archive.testzip()
    except Exception as error:  # a damaged directory leads zipfile to errors of every kind
        if is_of_the_machine(error):
            raise
        raise zipfile.BadZipFile(f"its parts cannot be read: {error}") from error
    if record is not None:
        raise DamagedCheckpoint(
            f"{path} is damaged: the bytes of its record {record} have changed since they were written; use another "
            "one (best.pt, step_*.pt) or copy the file again"
        )


def check_plain(value: Any, where: str) -> None:
    """Refuse what weights_only=True would refuse to read; subclasses too (a numpy float is a float)."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            check_plain(key, f"a key of {where}")
            check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    elif not (isinstance(value, Tensor) or type(value) in (str, int, float, bool, type(None))):
        raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain containers only")


def _describe(content: Any) -> str:
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        return f"a bare state dict of {len(content)} tensors"
    if isinstance(content, dict):
        return f"a dict with the keys {', '.join(map(str, list(content)[:5]))}"
    return f"a {type(content).__name__}"


def _write_error(path: Path, error: BaseException) -> OSError:
    """An OSError for what torch or the system reported while writing `path`.

    torch's zip writer hides a full disk behind a RuntimeError of its own, so the chain is searched for the cause.
    """
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno):
        cause = cause.__cause__ or cause.__context__
    number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EIO
    free = shutil.disk_usage(path.parent).free / 2**20 if path.parent.is_dir() else 0.0
    full = number in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space" if full else "check that the folder can be written to"
    previous = "; the previous one is untouched" if path.exists() else ""
    return OSError(
        number,
        f"cannot write the checkpoint: {os.strerror(number)} ({free:.0f} MiB free){previous}. "
        f"{remedy.capitalize()} or choose another output folder, then resume",
        str(path),
    )


def _read_error(path: Path, error: Exception) -> Exception:
    """What kept the machine from reading `path`, with its name."""
    if is_out_of_memory(error):
        size = f"{path.stat().st_size / 2**20:.0f} MiB"
        return MemoryError(f"not enough memory to read {path} ({size}): close other programs, or use another machine")
    assert isinstance(error, OSError)
    text = f"cannot read the checkpoint: {error.strerror}. It may be whole: mend the disk, its connection or its rights"
    return OSError(error.errno, text, str(path))


def require_same_classes(state: Mapping[str, Any], header: Mapping[str, Any], path: str | Path) -> None:
    """Raise CheckpointError when a run is to go on with other classes, or in another order, than its checkpoint's."""
    then, now = list(state["class_names"]), list(header["class_names"])
    if then == now:
        return
    changed = [name for name in (*then, *now) if (name in then) != (name in now)]
    what = f"{', '.join(changed[:8])} only on one side" if changed else "the same ones in another order"
    raise CheckpointError(
        f"{path}: was trained on {len(then)} classes, the data now have {len(now)} ({what}): labels would change their "
        "meaning. Restore the data, or begin another run from these weights (model.weights)"
    )
