"""From a checkpoint, which knows its configuration, to the network in it."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from detres.api import AnyPredictor, Detector, ImageClassifier, ImageLocalizer
from detres.config import Config, config_from_dict
from detres.data.transforms import DetectionTransforms
from detres.detector import FasterRCNN, Localizer
from detres.engine.checkpoint import CheckpointError, load_checkpoint, load_model_state, require_same_shapes
from detres.weights.imagenet import with_words
from detres.weights.report import WeightsError
from detres.weights.sources import TORCHVISION, ZOO, FormatError, LoadedWeights, read_state_dict
from detres.weights.zoo import entries
from detres.wiring.datasets import build_transforms
from detres.wiring.foreign import assumptions, class_names_of, implied_config, with_implied
from detres.wiring.networks import Network, build_model, load_whole_model
from detres.wiring.test_time import resizes_itself, with_test_time

_OWN_ADAPTERS = (  # they are ours, although `type` names them as it names classes of anybody's
    "detres.integrations.torchvision:TorchvisionBackbone",
    "detres.integrations.timm:TimmBackbone",
)


def model_from_checkpoint(
    path: str | Path, *, trust_code: bool = False, overrides: Sequence[str] = ()
) -> tuple[Network, Config, tuple[str, ...]]:
    """The network of a checkpoint with its (averaged) weights, its configuration and its class names.

    Besides detres's own checkpoints: `zoo:NAME`, `torchvision:NAME`, and files of other toolkits that are recognised.
    `overrides` are settings of its configuration to change (`eval.box_refinement={}`).
    `trust_code`: whether the checkpoint may name a backbone class of somebody's (`type: module:Class`), which is then
    imported and called. Raises CheckpointError naming the file when it is missing, damaged or not one of ours, and
    ValueError when it names such a class and is not trusted.
    """
    if _never_ours(str(path)):
        return _model_from_foreign(read_state_dict(path), overrides)
    try:
        state = load_checkpoint(path)
    except CheckpointError:
        if (found := _foreign(path)) is None:
            raise
        return _model_from_foreign(found, overrides)
    config = config_from_dict(state["config"], str(path), overrides)
    if not trust_code:
        refuse_named_code(config, path, data=False)
    names = tuple(state["class_names"])
    weights = state["ema"] or state["model"]
    if ":" not in config.model.backbone.type:  # others' networks may need values where they are built
        with torch.device("meta"):  # what is too large for these weights is refused before it takes memory
            require_same_shapes(build_model(config, len(names)), weights, path)
    model = build_model(config, len(names))
    load_model_state(model, weights, path)
    return model.eval(), config, names


def _never_ours(source: str) -> bool:
    if not Path(source).exists() and any(entry.name == source for entry in entries()):
        return True  # whose reader knows what to say
    return source.startswith((ZOO, TORCHVISION)) or Path(source).suffix in (".pkl", ".caffemodel")


def _foreign(path: str | Path) -> LoadedWeights | None:
    """The weights of another toolkit in a file that is no checkpoint of ours; None when it is no such thing either."""
    try:
        found = read_state_dict(path)
    except FormatError:
        raise  # it tells which tensors are to blame
    except WeightsError:
        return None
    if found.implied is None and found.config is None:
        with_implied(found)  # says how to tell what the file is
    return found if found.implied is not None else None


def _model_from_foreign(found: LoadedWeights, overrides: Sequence[str]) -> tuple[Network, Config, tuple[str, ...]]:
    config, names = implied_config(found, overrides=overrides), class_names_of(found)
    if assumed := assumptions(found, config, overrides):
        warnings.warn(f"{found.source} does not tell everything; assumed: {'; '.join(assumed)}", stacklevel=4)
    model = build_model(config, len(names))
    load_whole_model(model, found, names)
    return model.eval(), config, names


def refuse_named_code(config: Config, source: str | Path, *, data: bool) -> None:
    """Raise ValueError when a stored configuration names classes of somebody's, which using it would import and call.

    The backbone counts always, the data sets with `data`: whoever only predicts does not build them.
    """
    train = config.data.train if isinstance(config.data.train, list) else [config.data.train]
    sets = [entry for entry in (*train, config.data.val, config.data.test) if entry is not None] if data else []
    types = dict.fromkeys(part.type for part in (config.model.backbone, *sets))
    if named := [name for name in types if ":" in name and name not in _OWN_ADAPTERS]:
        raise ValueError(
            f"{source}: its configuration names {', '.join(named)}, which would be imported and run. If you know where "
            "the file comes from, allow it: --trust-code, or detres.load(..., trust_code=True)"
        )


def predictor_from_checkpoint(
    path: str | Path,
    device: str | torch.device = "auto",
    *,
    trust_code: bool = False,
    overrides: Sequence[str] = (),
) -> AnyPredictor:
    """What `detres.load` returns: a Detector, ImageClassifier or ImageLocalizer, by what the checkpoint holds."""
    model, config, names = model_from_checkpoint(path, trust_code=trust_code, overrides=overrides)
    kinds: dict[type, type[AnyPredictor]] = {FasterRCNN: Detector, Localizer: ImageLocalizer}
    kind = kinds.get(type(model), ImageClassifier)
    network = with_test_time(model, config)
    return kind(
        network,
        names if kind is Detector else with_words(names),
        DetectionTransforms([]) if resizes_itself(network) else build_transforms(config, training=False),
        device=device,
        size_divisibility=config.model.pixels.size_divisibility,
        precision=config.eval.precision,
        inference=config.eval.inference.model_dump(),
    )
