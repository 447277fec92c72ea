"""Reading state dicts: detres checkpoints, torch files, safetensors, npz, and torchvision's published weights.

Nothing here executes what a file contains: torch files are read with weights_only=True, npz without pickles.
"""

import difflib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from detres.weights.report import WeightsError

Kind = Literal["detector", "classifier", "state_dict"]
Background = Literal["first", "last"]

TORCHVISION = "torchvision:"
_VERSION = 1  # the newest checkpoint format that this code knows
_SUFFIXES = ".pt, .pth, .safetensors, .npz"
# How training scripts wrap a state dict, and how torch's own wrappers rename its keys.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "model_state", "net")
_WRAPPERS = ("module.", "_orig_mod.")
# torchvision's first detection weights, still its published ones, name the convolutions of FPN and RPN without index.
_OLD_NAME = re.compile(r"((?:^|\.)fpn\.(?:inner|layer)_blocks\.\d+|^rpn\.head\.conv)\.(weight|bias)$")


@dataclass(frozen=True)
class LoadedWeights:
    """A state dict and what its source says about it.

    state_dict   tensors by name, on the CPU
    class_names  one per class, empty when the source does not tell
    kind         detector or classifier for a detres checkpoint, else state_dict
    config       the run's configuration (a detres checkpoint), else None
    source       the path or name that was read, for messages
    background   the row of the background class in a detector's head, None when the source does not tell
    """

    state_dict: dict[str, Tensor]
    class_names: tuple[str, ...] = ()
    kind: Kind = "state_dict"
    config: dict[str, Any] | None = None
    source: str = "weights"
    background: Background | None = None


def read_state_dict(source: str | Path) -> LoadedWeights:
    """Read weights from a file (.pt, .pth, .safetensors, .npz) or from `torchvision:ResNet50_Weights.IMAGENET1K_V2`.

    A detres checkpoint gives its EMA weights when it has them. Raises WeightsError when the source is missing,
    truncated, not weights, or would need code to be executed.
    """
    name = str(source)
    if name.startswith(TORCHVISION):
        return _read_torchvision(name)
    path = Path(name).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(
            f"{name}: {what}; expected a weights file ({_SUFFIXES}) or a name such as "
            f"{TORCHVISION}ResNet50_Weights.IMAGENET1K_V2"
        )
    if path.stat().st_size == 0:
        raise WeightsError(f"{name}: the file is empty; copy or download it again")
    if path.suffix == ".safetensors":
        return _plain(_read_safetensors(path), name)
    if path.suffix == ".npz":
        return _plain(_read_npz(path), name)
    return _from_torch_file(_read_torch(path), name)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    import zipfile
    import zlib

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(
            f"{path}: not a whole npz file of numeric arrays ({error}); arrays of Python objects are not read"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not a torch file of tensors and plain containers ({_first_line(error)}). Other Python objects "
            "are refused, because reading them can execute code; save the model's state_dict() alone"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(
            f"{path}: truncated or not a torch file ({_first_line(error)}); copy or download it again"
        ) from error


def _from_torch_file(content: Any, name: str) -> LoadedWeights:
    if isinstance(content, Mapping) and content.get("format") == "detres":
        return _from_checkpoint(content, name)
    state = content
    for key in _CONTAINERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping):
        raise WeightsError(f"{name}: holds a {type(content).__name__}; expected a state dict (tensors by name)")
    return _plain(state, name)


def _from_checkpoint(content: Mapping[str, Any], name: str) -> LoadedWeights:
    version, kind, model = content.get("version"), content.get("kind"), content.get("model")
    if not isinstance(version, int) or version > _VERSION:
        raise WeightsError(f"{name}: checkpoint version {version!r}, this detres reads up to {_VERSION}; update detres")
    if kind not in ("detector", "classifier") or not isinstance(model, Mapping):
        raise WeightsError(
            f"{name}: a detres checkpoint must have a kind (detector or classifier) and a model, "
            f"found kind {kind!r} and model of type {type(model).__name__}; write it again"
        )
    config = content.get("config")
    return LoadedWeights(
        state_dict=_tensors({**model, **(content.get("ema") or {})}, name),
        class_names=tuple(content.get("class_names") or ()),
        kind=kind,
        config=config,
        source=name,
        background=_background(config) if kind == "detector" else None,
    )


def _background(config: Mapping[str, Any] | None) -> Background:
    heads = ((config or {}).get("model") or {}).get("roi_heads") or {}
    return "first" if heads.get("background") == "first" else "last"


def _read_torchvision(name: str) -> LoadedWeights:
    weights = _torchvision_entry(name)
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{name}: could not be fetched from {weights.url} ({_first_line(error)}). Without a network, download "
            f"that file elsewhere and put it into {torch.hub.get_dir()}/checkpoints, or name the file itself"
        ) from error
    names = list(weights.meta.get("categories") or ())
    detects = names[:1] == ["__background__"]
    return LoadedWeights(
        state_dict=_tensors(state, name),
        # ImageNet's are words (two of them twice), where data sets have WordNet ids: its classes go by their position.
        class_names=tuple(names[1:]) if detects else (),
        source=name,
        background="first" if detects else None,
    )


def _torchvision_entry(name: str) -> Any:
    from torchvision.models import get_model_weights, get_weight, list_models

    wanted = name.removeprefix(TORCHVISION)
    try:
        return get_weight(wanted)
    except (ValueError, AttributeError, KeyError):
        known = [str(entry) for model in list_models() for entry in get_model_weights(model)]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(TORCHVISION + entry for entry in near)}?" if near else ""
    raise WeightsError(f"{name}: torchvision has no weights of that name{hint}")


def _plain(state: Mapping[str, Any], name: str) -> LoadedWeights:
    return LoadedWeights(_tensors(state, name), source=name)


def _tensors(state: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The tensors among the values, under today's names, without the prefixes of DDP and torch.compile."""
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(
            f"{name}: holds no tensors by name (found {', '.join(map(repr, list(state)[:5])) or 'nothing'})"
        )
    for wrapper in _WRAPPERS * 2:  # either may surround the other
        if all(key.startswith(wrapper) for key in tensors):
            tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    return {_today(key): value for key, value in tensors.items()}


def _today(key: str) -> str:
    old = _OLD_NAME.search(key)
    return key if old is None else f"{key[: old.end(1)]}{'.0.0' if 'rpn' in old[1] else '.0'}.{old[2]}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
