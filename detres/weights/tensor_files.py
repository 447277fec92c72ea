"""Files of tensors, of every kind that toolkits write: what is in them, without running anything that they contain."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detres.files.restricted import read_pickle, read_torch
from detres.weights.formats.caffemodel import read_caffemodel
from detres.weights.formats.note import KEY
from detres.weights.report import WeightsError

SUFFIXES = ".pt, .pth, .pkl, .safetensors, .npz, .caffemodel"
# How training scripts wrap a state dict, and how torch's own wrappers rename its keys.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "model_state", "net", "blobs")
_ALWAYS_READ, _MOST_EXPANSION = 256 << 20, 100  # what a compressed file may unpack to: bytes, and times its own size
_WRAPPERS = ("module.", "_orig_mod.")


def read_file(path: Path, name: str) -> Any:
    """The content of a file; its suffix says how to read it.

    Raises WeightsError, with `name`, for what is missing, truncated, not weights, or would need code to be executed.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        from detres.weights.zoo import entries

        if any(entry.name == name for entry in entries()):
            raise WeightsError(f"{name}: {what}; did you mean zoo:{name}?")
        raise WeightsError(
            f"{name}: {what}; expected a weights file ({SUFFIXES}), or a name such as "
            "torchvision:ResNet50_Weights.IMAGENET1K_V2 or zoo:detectron2/faster_rcnn_R_50_FPN_3x"
        )
    if path.stat().st_size == 0:
        raise WeightsError(f"{name}: the file is empty; copy or download it again")
    try:
        return _READERS.get(path.suffix, read_torch)(path)
    except WeightsError:
        raise
    except ValueError as error:
        raise WeightsError(str(error)) from error


def unwrap(content: Any, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name in a file's content, without the prefixes of DDP and torch.compile; and what stands beside.

    Raises WeightsError when there are none.
    """
    state, extra = content, _beside(content)
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            state, extra = content[key], {k: v for k, v in content.items() if k != key}
            break
    if not isinstance(state, Mapping):
        raise WeightsError(f"{name}: holds a {type(content).__name__}; expected a state dict (tensors by name)")
    tensors = {str(key): _tensor(value) for key, value in state.items() if _is_numeric(value)}
    if hollow := [key for key, tensor in tensors.items() if tensor.is_meta]:
        raise WeightsError(
            f"{name}: {hollow[0]} has a shape but no values (device meta); save the model again from where they are"
        )
    if not tensors:
        raise WeightsError(
            f"{name}: holds no tensors by name (found {', '.join(map(repr, list(state)[:5])) or 'nothing'})"
        )
    for wrapper in _WRAPPERS * 2:  # either may surround the other
        if all(key.startswith(wrapper) for key in tensors):
            tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    return tensors, extra


def _beside(content: Any) -> dict[str, Any]:
    """What a state dict carries as metadata of its own."""
    metadata = getattr(content, "_metadata", None)
    found = metadata.get(KEY) if isinstance(metadata, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def _is_numeric(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "bfiu")


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(value)


def with_metadata(state: Mapping[str, Tensor], note: str | None) -> dict[str, Tensor]:
    """A state dict that carries a note where torch keeps the versions of modules, so that it loads as any other."""
    noted = OrderedDict(state)
    if note is not None:
        noted._metadata = {KEY: {KEY: note}}  # type: ignore[attr-defined]
    return noted


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
        return with_metadata(load_file(path), metadata.get(KEY))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > max(_ALWAYS_READ, _MOST_EXPANSION * path.stat().st_size):
            raise ValueError(f"{path.stat().st_size} bytes that unpack to {unpacked}")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except Exception as error:  # damaged headers make numpy and zipfile raise nearly anything
        raise WeightsError(
            f"{path}: not a whole npz file of numeric arrays ({error}); arrays of Python objects are not read"
        ) from error


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pkl": read_pickle,
    ".caffemodel": read_caffemodel,
}
