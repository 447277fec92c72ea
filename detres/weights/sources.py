"""Where weights come from: detres checkpoints, other toolkits' files, plain state dicts, published weights by name.

Nothing here executes what a file contains (detres.weights.tensor_files).
"""

import difflib
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from detres.weights.formats import FORMATS, kind_of, recognise
from detres.weights.formats.interface import Implied
from detres.weights.formats.note import noted_format, read_note, restored
from detres.weights.formats.torchvision import todays_name
from detres.weights.report import WeightsError
from detres.weights.tensor_files import read_file, unwrap
from detres.weights.torchvision_names import classifier_from_torchvision

Kind = Literal["detector", "classifier", "localizer", "state_dict"]
Background = Literal["first", "last"]

TORCHVISION = "torchvision:"
ZOO = "zoo:"
_VERSION = 1  # the newest checkpoint format that this code knows


class FormatError(WeightsError):
    """A file that is in a toolkit's format but for some of its tensors."""


@dataclass(frozen=True)
class LoadedWeights:
    """A state dict in detres's names, and what its source says about it.

    state_dict   tensors by name, on the CPU
    class_names  one per class, empty when the source does not tell
    kind         detector, classifier or localizer where the source tells, else state_dict
    config       the run's configuration (a detres checkpoint), else None
    source       the path or name that was read, for messages
    background   the row of the background class in a detector's head, None when the source does not tell
    implied      what another toolkit's file says about the model (settings of `model`), else None
    recipe       name of a shipped configuration and overrides that reproduce published weights, else None
    """

    state_dict: dict[str, Tensor]
    class_names: tuple[str, ...] = ()
    kind: Kind = "state_dict"
    config: dict[str, Any] | None = None
    source: str = "weights"
    background: Background | None = None
    implied: Implied | None = None
    recipe: tuple[str, tuple[str, ...]] | None = None

    @property
    def model_settings(self) -> dict[str, Any]:
        """The settings of `model` that the weights were made with, as far as the source tells; nested."""
        return _part(self.config, "model") if self.implied is None else self.implied.model


def read_state_dict(source: str | Path, format: str | None = None, *, ignore: Iterable[str] = ()) -> LoadedWeights:
    """Read weights from a file, from `torchvision:ResNet50_Weights.IMAGENET1K_V2` or from `zoo:NAME` (`detres zoo`).

    Files of detectron2 (.pkl, .pth), mmdetection, timm's "d" variants and MSRA's ResNets (.pkl) are recognised by
    their keys and brought into detres's names; what they imply about the model comes along. Other state dicts are
    taken as they are, in torchvision's or detres's names. `format` (a key of detres.weights.formats.FORMATS) says what
    a file is; `ignore`: regular expressions of its keys that are to be left out.

    A detres checkpoint gives its EMA weights when it has them. Raises WeightsError when the source is missing,
    truncated, not weights, or would need code to be executed, and lists the keys that have no place in its format.
    """
    name = str(source)
    if name.startswith(TORCHVISION):
        return _read_torchvision(name)
    if name.startswith(ZOO):
        from detres.weights.zoo import fetch, find

        entry = find(name.removeprefix(ZOO))
        if format not in (None, entry.format):
            raise WeightsError(f"{name}: is a file of {entry.format}, not of {format}")
        path = fetch(entry)
        tensors, extra = _tensors_of(read_file(path, f"{name} ({path})"), name, ignore)
        found = _from_foreign(tensors, extra, entry.format, name)
        return replace(found, recipe=(entry.config, entry.overrides))
    content = read_file(Path(name).expanduser(), name)
    if isinstance(content, Mapping) and content.get("format") == "detres":
        return _from_checkpoint(content, name)
    tensors, extra = _tensors_of(content, name, ignore)
    format = format or recognise(tensors) or noted_format(extra)
    if format not in FORMATS:
        return LoadedWeights({todays_name(key): tensor for key, tensor in tensors.items()}, source=name)
    return _from_foreign(tensors, extra, format, name)


def _tensors_of(content: Any, name: str, ignore: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As unwrap; without the keys that match one of `ignore` from their start."""
    tensors, extra = unwrap(content, name)
    unneeded = [re.compile(pattern) for pattern in ignore]
    return {key: tensor for key, tensor in tensors.items() if not any(p.match(key) for p in unneeded)}, extra


def _from_foreign(tensors: dict[str, Tensor], extra: Mapping[str, Any], format: str, name: str) -> LoadedWeights:
    try:
        state, noted = FORMATS[format].to_detres(tensors), read_note(extra)
        implied = noted or FORMATS[format].implied(tensors, extra)
    except WeightsError as error:
        looks = recognise(tensors) or ("torchvision" if FORMATS["torchvision"].recognises(tensors) else format)
        hint = "" if looks == format else f". Its keys look like {looks}'s"
        raise FormatError(f"{name}, read as {format}: {error}{hint}") from error
    return LoadedWeights(
        state_dict=restored(state, extra, noted, FORMATS[format].BACKGROUND) if noted else state,
        class_names=implied.class_names,
        kind=kind_of(state),
        source=name,
        background=(implied.model.get("roi_heads") or {}).get("background"),
        implied=implied,
    )


def _from_checkpoint(content: Mapping[str, Any], name: str) -> LoadedWeights:
    version, kind, model = content.get("version"), content.get("kind"), content.get("model")
    if not isinstance(version, int) or version > _VERSION:
        raise WeightsError(f"{name}: checkpoint version {version!r}, this detres reads up to {_VERSION}; update detres")
    if kind not in ("detector", "classifier", "localizer") or not isinstance(model, Mapping):
        raise WeightsError(
            f"{name}: a detres checkpoint must have a kind (detector, classifier or localizer) and a model, "
            f"found kind {kind!r} and model of type {type(model).__name__}; write it again"
        )
    config, ema, names = content.get("config"), content.get("ema") or {}, content.get("class_names") or ()
    if not isinstance(config, dict | None) or not isinstance(ema, Mapping):
        raise WeightsError(f"{name}: config or ema is not what a detres checkpoint has there; write it again")
    if not isinstance(names, list | tuple):
        raise WeightsError(f"{name}: class_names is a {type(names).__name__}, expected a list; write the file again")
    tensors, _ = unwrap({**model, **ema}, name)
    return LoadedWeights(
        state_dict=tensors,
        class_names=tuple(map(str, names)),
        kind=kind,
        config=config,
        source=name,
        background=_background(config) if kind == "detector" else None,
    )


def _background(config: Mapping[str, Any] | None) -> Background:
    return "first" if _part(_part(config, "model"), "roi_heads").get("background") == "first" else "last"


def _part(settings: Any, key: str) -> dict[str, Any]:
    """A group of settings; empty where a file has none, or something else."""
    found = settings.get(key) if isinstance(settings, Mapping) else None
    return found if isinstance(found, dict) else {}


def _read_torchvision(name: str) -> LoadedWeights:
    weights = _torchvision_entry(name)
    _require_there_or_online(name, weights.url)
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{name}: could not be fetched from {weights.url} ({_first_line(error)}). Without a network, download "
            f"that file elsewhere and put it into {torch.hub.get_dir()}/checkpoints, or name the file itself"
        ) from error
    names = list(weights.meta.get("categories") or ())
    detects = names[:1] == ["__background__"]
    tensors, _ = unwrap(state, name)
    tensors = {todays_name(key): tensor for key, tensor in tensors.items()}
    if not detects and not any(key.startswith("backbone.") for key in tensors):
        tensors = classifier_from_torchvision(tensors)
    return LoadedWeights(
        state_dict=tensors,
        # ImageNet's are words (two of them twice), where data sets have WordNet ids: its classes go by their position.
        class_names=tuple(names[1:]) if detects else (),
        kind="detector" if detects else kind_of(tensors),
        source=name,
        recipe=_recipe_of(weights.url),
        background="first" if detects else None,
    )


def _recipe_of(url: str) -> tuple[str, tuple[str, ...]] | None:
    """What the zoo knows of the weights that are published there."""
    from detres.weights.zoo import entries

    return next(((entry.config, entry.overrides) for entry in entries() if entry.url == url), None)


def _require_there_or_online(name: str, url: str) -> None:
    from detres.weights.zoo.fetching import is_offline

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if is_offline() and not path.is_file():
        raise WeightsError(
            f"{name}: is not in torch's cache, and DETRES_OFFLINE is set. Download {url} elsewhere and put it at {path}"
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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
