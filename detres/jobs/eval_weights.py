"""The network of an evaluation: from one file of weights, or an ensemble from several."""

import warnings
from collections.abc import Sequence
from typing import cast

from torch import nn

from detres import wiring
from detres.classifier import Ensemble
from detres.config import Config, config_from_dict
from detres.detector import FasterRCNN
from detres.weights.load import is_counter
from detres.weights.report import WeightsError
from detres.weights.sources import TORCHVISION, read_state_dict


def stored_config(weights: str, overrides: Sequence[str] = (), *, trust_code: bool = False) -> Config:
    """The configuration that a checkpoint was trained with, or that another toolkit's file implies; with `overrides`.

    Raises ValueError when the file tells of none, or when it names classes to be imported and is not trusted.
    """
    found = read_state_dict(weights)
    if found.config is None and found.implied is None and not weights.startswith(TORCHVISION):
        raise ValueError(f"{weights}: holds no configuration; expected a detres checkpoint, or one given by --config")
    if found.config is None:
        config = wiring.implied_config(found, overrides=overrides)
        if assumed := wiring.assumptions(found, config, overrides):
            warnings.warn(f"{weights} does not tell everything; assumed: {'; '.join(assumed)}", stacklevel=2)
        return config
    config = config_from_dict(found.config, weights, overrides)
    if not trust_code:
        wiring.refuse_named_code(config, weights, data=True)
    return config


def load_networks(
    config: Config, weights: Sequence[str], split: str, *, trust_code: bool = False
) -> tuple[nn.Module, tuple[str, ...]]:
    """The configured model with the tensors of one file, or the ensemble of several; and its class names.

    In an ensemble every checkpoint that knows its model brings it (its RPN's settings too); other files are read into
    the configured one. Thresholds, NMS and images are as configured. Classes follow the first file. Raises ValueError
    when a file does not fit or its classes differ.
    """
    if len(weights) == 1:
        return load_model(config, weights[0], split)
    if config.kind == "localizer":
        raise ValueError(f"--weights: got {len(weights)} files, expected one: there are no ensembles of localizers")
    members = [_load_member(config, path, split, trust_code) for path in weights]
    wanted = members[0][1]
    columns = [_columns(wanted, names, weights[0], path) for (_, names), path in zip(members, weights, strict=True)]
    models = [model for model, _ in members]
    if config.kind == "classifier":
        return Ensemble(models, columns), wanted
    in_order = all(order == list(range(len(wanted))) for order in columns)
    return wiring.build_system(config, cast(list[FasterRCNN], models), None if in_order else columns), wanted


def load_model(config: Config, weights: str, split: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The config's model with the tensors of `weights`, whose class names count where the file has any."""
    found = read_state_dict(weights)
    wanted = config.kind
    if found.kind not in (wanted, "state_dict"):
        remedy = "leave --config out to take its own"
        if wanted != "classifier":
            remedy += f", or train a {wanted} from it: tools/train_net.py ... model.backbone.weights=" + weights
        raise WeightsError(f"{weights}: holds a {found.kind}, but the configuration describes a {wanted}; {remedy}")
    names = found.class_names
    if not names:
        names = wiring.build_split(config, "val" if config.data.test is None else split).class_names
    model = wiring.build_model(config, len(names))
    report = wiring.load_whole_model(model, found, names)
    own = model.state_dict()
    if unfilled := [key for key in report.keys("missing", "skipped") if key in own and not is_counter(key)]:
        raise WeightsError(
            f"{weights}: does not fill {len(unfilled)} tensors of the model ({', '.join(unfilled[:4])}), which has "
            f"{len(names)} classes; evaluating it would judge random numbers. Use weights trained for these classes"
        )
    return model, names


def _load_member(config: Config, weights: str, split: str, trust_code: bool) -> tuple[nn.Module, tuple[str, ...]]:
    found = read_state_dict(weights)
    if found.config is None and (config.kind == "classifier" or found.implied is None):
        return load_model(config, weights, split)
    model, own, names = wiring.model_from_checkpoint(weights, trust_code=trust_code)
    if own.kind != config.kind:
        raise ValueError(f"{weights}: holds a {own.kind}, expected a {config.kind}; leave it out of the ensemble")
    if own.data.eval_transforms != config.data.eval_transforms and config.eval.protocol.type == "center":
        text = "was evaluated with other data.eval_transforms than the ensemble is: all its networks see one image"
        warnings.warn(f"{weights} {text}", stacklevel=3)
    return model, names


def _columns(wanted: Sequence[str], names: Sequence[str], first: str, weights: str) -> list[int]:
    """Where a network with classes `names` has each of the classes `wanted`."""
    if tuple(names) == tuple(wanted):
        return list(range(len(wanted)))
    places = {name: place for place, name in enumerate(names)}
    if len(names) != len(wanted) or set(names) != set(wanted):
        differing = sorted(set(names) ^ set(wanted))
        shown = ", ".join(map(repr, differing[:4])) + (" ..." if len(differing) > 4 else "")
        raise ValueError(
            f"{weights}: has {len(names)} classes, expected the {len(wanted)} of {first} in any order (only one of "
            f"them has {shown}); networks of an ensemble must be trained on the same classes"
        )
    return [places[name] for name in wanted]
