"""Files as other toolkits write their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detres.files.atomic_file import atomic_path
from detres.files.restricted import write_pickle
from detres.weights.formats.note import KEY
from detres.weights.tensor_files import with_metadata

SUFFIXES = {  # of the files of each format; those of the others hold a state dict alone
    "detectron2": (".pkl", ".pth"),
    "msra": (".pkl",),
    "mmdetection": (".pth", ".pt"),
}
STATE_DICT_SUFFIXES = (".pth", ".pt", ".safetensors")


def file_content(
    format: str, state: Mapping[str, Tensor], kind: str, class_names: Sequence[str], note: str | None
) -> dict[str, Any]:
    """What a file of the format holds: tensors by its names, and what stands beside them.

    kind: detector, classifier or backbone; note: as formats.note.write_note makes it.
    """
    beside: dict[str, Any] = {} if note is None else {KEY: note}
    match format:
        case "detectron2":
            # Its names of a classifier lack a detector's prefixes; with this it finds them all the same.
            beside |= {"matching_heuristics": True} if kind != "detector" else {}
            return {"model": dict(state), "__author__": "detres", **beside}
        case "msra":
            return {"blobs": dict(state), **beside}
        case "mmdetection":
            return {"meta": {"dataset_meta": {"classes": list(class_names)}}, "state_dict": dict(state), **beside}
    return with_metadata(state, note)


def write_file(target: Path, content: Mapping[str, Any]) -> None:
    """Write it as the suffix says, whole or not at all. OSError when it cannot be written."""
    match target.suffix:
        case ".pkl":
            write_pickle(target, _as_arrays(content))
        case ".safetensors":
            from safetensors.torch import save_file

            with atomic_path(target) as temporary:
                tensors = {key: tensor.contiguous() for key, tensor in content.items()}
                save_file(tensors, temporary, metadata=getattr(content, "_metadata", {}).get(KEY))
        case _:
            with atomic_path(target) as temporary:
                torch.save(content, temporary)


def _as_arrays(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _as_arrays(value) if isinstance(value, Mapping) else value.numpy() if isinstance(value, Tensor) else value
        for key, value in content.items()
    }
