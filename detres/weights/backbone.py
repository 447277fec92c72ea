"""Putting classification weights under a detector: the same backbone, found again behind another prefix.

A backbone's tensors keep their own names (torchvision's) everywhere; only the prefix tells where they live: none in
a torchvision file, `backbone.` in a classifier or a detector without neck, `backbone.body.` in one with FPN. The C4
detector keeps conv5_x, `layer4.*`, in its head, a cascade in the head of every stage.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detres.weights.load import Plan, is_counter, require_same_architecture
from detres.weights.report import LoadReport
from detres.weights.sources import LoadedWeights

_PREFIXES = ("backbone.body.", "backbone.", "body.", "")
# What lies behind the feature maps lives in a detector's head: conv5_x (C4), VGG's two fully connected layers.
_HEAD = "roi_heads.box_head."
_ANY_HEAD = re.compile(r"roi_heads\.(?:earlier_stages\.\d+\.)?box_head\.")
_CONV5 = "layer4."
_FULLY_CONNECTED = {"classifier.0.": "fc6.", "classifier.3.": "fc7.", "head.fc6.": "fc6.", "head.fc7.": "fc7."}
_UNFOLDED = "identity norm with the folded bias: exact while the norm is frozen"


def load_backbone(
    model: nn.Module, weights: LoadedWeights | Mapping[str, Tensor], *, strict: bool = True
) -> LoadReport:
    """Copy the backbone in `weights` into the backbone of `model` (detector, classifier or backbone alone).

    Partial weights load with what is there, stage by stage. Batch norm that was folded into the convolutions comes
    back as an identity norm with the convolution's bias. Everything that is no backbone (`fc`, necks, heads) is
    skipped and reported. Raises WeightsError, leaving the model as it was, when tensors have other shapes or a stage
    is deeper or shallower than the model's (`strict=False`: take what fits), and when nothing could be loaded.
    """
    if not isinstance(weights, LoadedWeights):
        weights = LoadedWeights(dict(weights))
    places = _places(model, weights.state_dict)
    own = _own_names(weights.state_dict, places)
    unfolded = _unfold_norms(model, own, places)
    target = model.state_dict()
    plan = Plan(weights.source, {key: target[key] for keys in places.values() for key in keys})
    for name, keys in places.items():  # in the model's order, whatever the file's is
        for key in keys if name in own else ():
            plan.take(key, own[name], _UNFOLDED if name in unfolded else "")
    left_over = [name for name in own if name not in places]
    absent = [name for name in places if name not in own]
    if strict:
        theirs, ours = {_stage(name) for name in own}, {_stage(name) for name in places}
        deeper = [name for name in left_over if _stage(name) in ours]
        shallower = [key for name in absent if _stage(name) in theirs for key in places[name]]
        require_same_architecture(plan, deeper, shallower)
    plan.skip(left_over, "not part of this backbone")
    plan.miss(key for name in absent for key in places[name])
    return plan.run()


def _places(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The backbone's own tensor names -> the model's keys, those in a detector's heads included."""
    target = {key: tensor for key, tensor in model.state_dict().items() if not is_counter(key)}
    prefix = next(prefix for prefix in _PREFIXES if prefix == "" or any(key.startswith(prefix) for key in target))
    places = {key.removeprefix(prefix): [key] for key in target if key.startswith(prefix)}
    heads = list(dict.fromkeys(found[0] for key in target if (found := _ANY_HEAD.match(key))))
    for head in heads:
        for key in target:
            if key.startswith(head + _CONV5):
                places.setdefault(key.removeprefix(head), []).append(key)
    for theirs, ours in _FULLY_CONNECTED.items():
        names = {theirs + part: [head + ours + part for head in heads] for part in ("weight", "bias")}
        pairs = [(name, key) for name, keys in names.items() for key in keys]
        if pairs and all(n in state and k in target and state[n].shape == target[k].shape for n, k in pairs):
            places |= names
    return places


def _own_names(state: Mapping[str, Tensor], places: Mapping[str, list[str]]) -> dict[str, Tensor]:
    """The file's tensors without its prefix, which is the one that finds most of the model's names."""
    prefix = max(_PREFIXES, key=lambda p: sum(key.startswith(p) and key.removeprefix(p) in places for key in state))
    own = {}
    for key, tensor in state.items():
        if not is_counter(key):
            name = key.removeprefix(_HEAD) if key.startswith(_HEAD + _CONV5) else key.removeprefix(prefix)
            own[name] = tensor
    return own


def _unfold_norms(model: nn.Module, own: dict[str, Tensor], places: Mapping[str, list[str]]) -> set[str]:
    """Replace, in `own`, every convolution bias that the model has no place for by the norm that adds it.

    Returns the names of the norm tensors made. With running_var = 1 - eps the norm scales by exactly 1.
    """
    made: set[str] = set()
    for name in [name for name in own if name.endswith(".bias") and name not in places]:
        norm = _norm_after(name.removesuffix(".bias"))
        if f"{norm}.running_var" not in places or f"{norm}.weight" in own:
            continue
        bias = own.pop(name)
        eps = float(model.get_submodule(places[f"{norm}.running_var"][0].rpartition(".")[0]).eps)  # type: ignore[arg-type]
        tensors = {
            "weight": torch.ones_like(bias),
            "bias": bias,
            "running_mean": torch.zeros_like(bias),
            "running_var": torch.full_like(bias, 1.0 - eps),
        }
        own |= {f"{norm}.{part}": tensor for part, tensor in tensors.items()}
        made |= {f"{norm}.{part}" for part in tensors}
    return made


def _norm_after(conv: str) -> str:
    """The norm that follows a convolution in torchvision's names: conv1 -> bn1, downsample.0 -> downsample.1."""
    parent, _, name = conv.rpartition(".")
    successor = str(int(name) + 1) if name.isdigit() else name.replace("conv", "bn")
    return f"{parent}.{successor}" if parent else successor


def _stage(name: str) -> str:
    """The part of a backbone that a file holds wholly or not at all: conv1, bn1, layer1, ...; each layer of VGG."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] in ("features", "classifier", "head") else parts[0]
