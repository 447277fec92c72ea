"""Weights from one toolkit's format into another's, with the configuration that they imply."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from detres import wiring
from detres.config import Config, config_from_dict, config_to_dict
from detres.config.backbones import ResNetSettings
from detres.engine.checkpoint import save_checkpoint
from detres.weights.export import STATE_DICT_SUFFIXES, SUFFIXES, file_content, write_file
from detres.weights.formats import FORMATS
from detres.weights.formats.conventions import require_plain_heads, with_background, with_turned_channels
from detres.weights.formats.note import write_note
from detres.weights.formats.shapes import describe_backbone
from detres.weights.load import is_counter, load_weights
from detres.weights.report import WeightsError
from detres.weights.sources import LoadedWeights, read_state_dict

DETRES = "detres"
NAMES = (DETRES, *FORMATS)
_DETRES_SUFFIXES = (".pt", ".pth")
_CLASSIFIERS_ONLY = ("msra", "timm")
_EXPORTED = ("resnet", "cifar_resnet", "vgg")
_READ_ONLY = ("caffe",)
_RGB_ONLY = ("torchvision", "timm")  # by custom; nothing in their models turns the channels


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
    _check_names(source, source_format, target_format, target)
    found = _read(source, source_format, ignore)
    if found.kind == "state_dict":
        return _convert_backbone(found, target, target_format)
    if found.kind == "localizer" and target_format != DETRES:
        raise WeightsError(f"{source}: holds a localizer, which only detres has; nothing can be made of it elsewhere")
    config = _config_of(found, base, overrides)
    names = wiring.class_names_of(found)
    _require_whole(found, config, len(names))
    assumed = wiring.assumptions(found, config, overrides, base)
    if target_format == DETRES:
        header = {"kind": found.kind, "config": config_to_dict(config), "class_names": list(names)}
        save_checkpoint(target, {**header, "model": found.state_dict, "ema": None, "metrics": {}})
        return Conversion(target, len(found.state_dict), found.kind, assumed, ())
    return replace(_export(found, config, names, target, target_format), assumed=assumed)


def _export(found: LoadedWeights, config: Config, names: Sequence[str], target: Path, target_format: str) -> Conversion:
    if config.model.backbone.type not in _EXPORTED:
        raise ValueError(
            f"{found.source}: its backbone is a {config.model.backbone.type}; other toolkits get ResNets and VGG alone"
        )
    if found.kind == "detector" and target_format in _CLASSIFIERS_ONLY:
        others = ", ".join(name for name in FORMATS if name not in (*_CLASSIFIERS_ONLY, *_READ_ONLY))
        raise ValueError(f"{target_format} has classifiers only, and {found.source} is a detector; write {others}")
    format, model = FORMATS[target_format], config.model.model_dump()
    require_plain_heads(model, target_format)
    steps = [step.model_dump() for step in config.data.eval_transforms]
    state = with_background(found.state_dict, format.BACKGROUND, found.background)
    turned = target_format in _RGB_ONLY and model["pixels"]["channel_order"] == "bgr"
    theirs = format.from_detres(with_turned_channels(state) if turned else state)
    lines = [line.replace("FILE", str(target)) for line in format.instructions(model, state)]
    note = write_note(target_format, model, names, steps, turned=turned)
    write_file(target, file_content(target_format, theirs, found.kind, names, note))
    lines.append(f"images go through data.eval_transforms: {json.dumps(steps)}")
    lines.sort(key=lambda line: not line.startswith("not the same"))  # what matters most comes first
    return Conversion(target, len(theirs), found.kind, (), tuple(lines))


def _check_names(source: str, source_format: str, target_format: str, target: Path) -> None:
    for name in (source_format, target_format):
        if name not in NAMES:
            raise ValueError(f"format {name!r} is unknown; expected one of {', '.join(NAMES)}")
    if target_format in _READ_ONLY:
        raise ValueError(f"detres reads files of {target_format} and writes none; msra is the nearest format")
    suffixes = _DETRES_SUFFIXES if target_format == DETRES else SUFFIXES.get(target_format, STATE_DICT_SUFFIXES)
    if target.suffix not in suffixes:
        raise ValueError(f"{target}: files of {target_format} end in {' or '.join(suffixes)}; name it so")
    if target.is_dir():
        raise ValueError(f"{target}: is a folder, expected the name of a file to write")
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise ValueError(f"{target}: is the file to read; choose another name for the new one")


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


def _require_whole_backbone(found: LoadedWeights) -> None:
    """WeightsError, listing the tensors, unless these are a ResNet's from its stem to the end of some stage.

    Of a pyramid on it only the names are checked.
    """
    body = "backbone.body." if any(key.startswith("backbone.body.") for key in found.state_dict) else "backbone."
    settings = describe_backbone(found.state_dict)
    last = max(
        stage for stage in (1, 2, 3, 4) if any(key.startswith(f"{body}layer{stage}.") for key in found.state_dict)
    )
    with torch.device("meta"):
        built = wiring.build_backbone(ResNetSettings.model_validate({**settings, "out_features": [f"c{last + 1}"]}))
    own = {body + key for key in cast(nn.Module, built).state_dict() if not is_counter(key)}
    theirs = {key for key in found.state_dict if not is_counter(key) and not key.startswith("backbone.fpn.")}
    if own != theirs:
        raise WeightsError(
            f"{found.source}: no whole backbone. Missing in the file: {_listed(sorted(own - theirs))}. "
            f"Left over: {_listed(sorted(theirs - own))}. Name keys that nothing needs to --ignore"
        )


def _convert_backbone(found: LoadedWeights, target: Path, target_format: str) -> Conversion:
    """A backbone without a head has no configuration of its own: its tensors are written as they are named there."""
    state = found.state_dict
    _require_whole_backbone(found)
    if target_format == DETRES:
        write_file(target, state)
        text = f"a backbone alone: use it as model.backbone.weights={target}"
        return Conversion(target, len(state), "backbone", (text,), ())
    theirs = FORMATS[target_format].from_detres(state)
    write_file(target, file_content(target_format, theirs, "backbone", (), None))
    return Conversion(target, len(theirs), "backbone", (), ())


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys) or "none"
