"""Weights from one toolkit's format into another's, with the configuration that they imply."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detres import wiring
from detres.config import Config, config_from_dict, config_to_dict
from detres.engine.checkpoint import save_checkpoint
from detres.files.atomic_file import atomic_path
from detres.files.restricted import write_pickle
from detres.weights.formats import FORMATS
from detres.weights.formats.conventions import require_plain_heads, with_background, with_turned_channels
from detres.weights.formats.note import KEY, write_note
from detres.weights.load import is_counter, load_weights
from detres.weights.report import WeightsError
from detres.weights.sources import LoadedWeights, read_state_dict

DETRES = "detres"
NAMES = (DETRES, *FORMATS)
_SUFFIXES = {
    DETRES: (".pt", ".pth"),
    "detectron2": (".pkl", ".pth"),
    "msra": (".pkl",),
}
_RGB_ONLY = ("torchvision", "timm")  # by custom; nothing in their models turns the channels
_PLAIN = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Conversion:
    """What was written, and what its user should know: lines about assumptions, and about the other toolkit."""

    path: Path
    num_tensors: int
    kind: str
    assumed: tuple[str, ...]
    instructions: tuple[str, ...]


def convert(
    source: str,
    source_format: str,
    target: str | Path,
    target_format: str,
    *,
    base: str | None = None,
    overrides: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Conversion:
    """Read `source`, written as `source_format`, and write its tensors to `target` as `target_format` has them.

    A detres checkpoint that is made knows the configuration that the file implies, completed by `base` and changed by
    `overrides`; `ignore`: regular expressions of keys of the source to leave out. Raises WeightsError that lists the
    tensors left over or missing, and ValueError for formats and suffixes that do not go together; nothing is then
    written.
    """
    target = Path(target)
    _check_names(source_format, target_format, target)
    found = _read(source, source_format, ignore)
    if found.kind == "state_dict":
        return _convert_backbone(found, target, target_format)
    config = _config_of(found, base, overrides)
    names = wiring.class_names_of(found)
    _require_whole(found, config, len(names))
    assumed = found.implied.assumed if found.implied is not None else ()
    if target_format == DETRES:
        header = {"kind": found.kind, "config": config_to_dict(config), "class_names": list(names)}
        save_checkpoint(target, {**header, "model": found.state_dict, "ema": None, "metrics": {}})
        return Conversion(target, len(found.state_dict), found.kind, assumed, ())
    model = config.model.model_dump()
    require_plain_heads(model, target_format)
    state = with_background(found.state_dict, FORMATS[target_format].BACKGROUND)
    if target_format in _RGB_ONLY and model["pixels"]["channel_order"] == "bgr":
        state = with_turned_channels(state)
    theirs = FORMATS[target_format].from_detres(state)
    note = write_note(model, names, FORMATS[target_format].BACKGROUND)
    _write(target, _content(target_format, theirs, found.kind, names, note))
    instructions = [line.replace("FILE", str(target)) for line in FORMATS[target_format].instructions(model, state)]
    return Conversion(target, len(theirs), found.kind, assumed, tuple(instructions))


def _check_names(source_format: str, target_format: str, target: Path) -> None:
    for name in (source_format, target_format):
        if name not in NAMES:
            raise ValueError(f"format {name!r} is unknown; expected one of {', '.join(NAMES)}")
    suffixes = _SUFFIXES.get(target_format, _PLAIN)
    if target.suffix not in suffixes:
        raise ValueError(f"{target}: files of {target_format} end in {' or '.join(suffixes)}; name it so")
    if target.is_dir():
        raise ValueError(f"{target}: is a folder, expected the name of a file to write")


def _read(source: str, source_format: str, ignore: Sequence[str]) -> LoadedWeights:
    try:
        for pattern in ignore:
            re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--ignore: got {pattern!r}, expected a regular expression ({error})") from error
    found = read_state_dict(source, None if source_format == DETRES else source_format, ignore=ignore)
    is_ours = found.config is not None
    if is_ours != (source_format == DETRES):
        what = "is a detres checkpoint" if is_ours else "is not a detres checkpoint"
        raise WeightsError(f"{source}: {what}, but --from says {source_format}; name the format that it has")
    return found


def _config_of(found: LoadedWeights, base: str | None, overrides: Sequence[str]) -> Config:
    if found.config is None:
        return wiring.implied_config(found, base, overrides)
    config = config_from_dict(found.config, found.source, overrides)
    wiring.refuse_named_code(config, found.source, data=False)
    return config


def _require_whole(found: LoadedWeights, config: Config, num_classes: int) -> None:
    """WeightsError, listing the tensors, unless the configured model and the file have the same ones."""
    with torch.device("meta"):
        model = wiring.build_model(config, num_classes)
    own = {key for key in model.state_dict() if not is_counter(key)}
    theirs = {key for key in found.state_dict if not is_counter(key)}
    missing, left_over = sorted(own - theirs), sorted(theirs - own)
    if missing or left_over:
        raise WeightsError(
            f"{found.source}: the model that it implies has other tensors. Missing in the file: {_listed(missing)}. "
            f"Left over: {_listed(left_over)}. Set what the model really is (key=value), or name keys to --ignore"
        )
    load_weights(model, {key: tensor.to("meta") for key, tensor in found.state_dict.items()}, source=found.source)


def _convert_backbone(found: LoadedWeights, target: Path, target_format: str) -> Conversion:
    """A backbone without a head has no configuration of its own: its tensors are written as they are named there."""
    state = found.state_dict
    if target_format == DETRES:
        _write(target, state)
        text = f"a backbone alone: use it as model.backbone.weights={target}"
        return Conversion(target, len(state), "backbone", (text,), ())
    theirs = FORMATS[target_format].from_detres(state)
    _write(target, _content(target_format, theirs, "backbone", (), None))
    return Conversion(target, len(theirs), "backbone", (), ())


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys) or "none"


def _content(
    target_format: str, state: dict[str, Tensor], kind: str, names: Sequence[str], note: str | None
) -> dict[str, Any]:
    """What a file of the toolkit's holds: the tensors, and what it keeps beside them."""
    beside: dict[str, Any] = {} if note is None else {KEY: note}
    match target_format:
        case "detectron2":
            # Its names of a classifier lack a detector's prefixes; with this it finds them all the same.
            beside |= {"matching_heuristics": True} if kind != "detector" else {}
            return {"model": state, "__author__": "detres", **beside}
        case "mmdetection":
            return {"meta": {"dataset_meta": {"classes": list(names)}}, "state_dict": state, **beside}
    return state


def _write(target: Path, content: Mapping[str, Any]) -> None:
    match target.suffix:
        case ".pkl":
            write_pickle(target, _as_arrays(content))
        case ".safetensors":
            from safetensors.torch import save_file

            state = content.get("state_dict", content)
            with atomic_path(target) as temporary:
                save_file({key: tensor.contiguous() for key, tensor in state.items()}, temporary)
        case _:
            with atomic_path(target) as temporary:
                torch.save(content, temporary)


def _as_arrays(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _as_arrays(value) if isinstance(value, Mapping) else value.numpy() if isinstance(value, Tensor) else value
        for key, value in content.items()
    }
