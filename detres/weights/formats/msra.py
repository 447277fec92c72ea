"""Caffe2's blob names: the ImageNet ResNets (.pkl) of MSRA and FAIR that Detectron and detectron2 start from.

    conv1_w, res_conv1_bn_*, res2_0_branch2a_w, res2_0_branch2a_bn_*, ..., res2_0_branch1_w, fc1000_w, fc1000_b

Norms are spelled in four ways (Spelling). Detectron's copies of MSRA's networks have their statistics folded into
scale and shift: they get the mean 0 and the variance 1 - eps, with which a norm's scale is its weight, exactly. The
names are those of detectron2's checkpoint/c2_model_loading.py and Detectron's modeling/ResNet.py.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from detres.weights.formats.detectron2_conventions import MEAN_BGR, STD_BGR
from detres.weights.formats.detectron2_settings import settings_for
from detres.weights.formats.interface import Implied
from detres.weights.formats.renaming import Renaming
from detres.weights.formats.shapes import describe_model, merge
from detres.weights.report import WeightsError

NAME = "msra"
BACKGROUND = "last"
IGNORABLE = (r".*_momentum$", r"conv1_b$", r"(lr|model_iter|cur_iter|weight_order)$")

NormSpelling = Literal["gamma_beta", "running", "affine", "group"]

_EPS = 1e-5  # of every norm in these networks
_NORMS: dict[str, dict[str, str]] = {
    "gamma_beta": {
        "bn_gamma": "weight",
        "bn_beta": "bias",
        "bn_running_mean": "running_mean",
        "bn_running_var": "running_var",
    },
    "running": {"bn_s": "weight", "bn_b": "bias", "bn_rm": "running_mean", "bn_riv": "running_var"},
    "affine": {"bn_s": "weight", "bn_b": "bias"},
    "group": {"gn_s": "weight", "gn_b": "bias"},
}
_STEM_MEAN = "backbone.bn1.running_mean"
_SUFFIX = {"weight": "w", "bias": "b"}
_LAYERS = {"branch2a": ("conv1", "bn1"), "branch2b": ("conv2", "bn2"), "branch2c": ("conv3", "bn3"),
           "branch1": ("downsample.0", "downsample.1")}  # fmt: skip


class Spelling(NamedTuple):
    """How a file spells what is spelled differently from file to file; `spelling_of` tells a file's.

    norm        gamma_beta: bn_gamma, bn_beta, bn_running_mean, bn_running_var; running: bn_s, bn_b, bn_rm, bn_riv;
                affine: bn_s and bn_b alone; group: gn_s and gn_b
    classifier  the last layer, fc1000 or pred
    stem        how the norm of the stem begins, res_conv1 or conv1
    """

    norm: NormSpelling = "gamma_beta"
    classifier: Literal["fc1000", "pred"] = "fc1000"
    stem: Literal["res_conv1", "conv1"] = "res_conv1"


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of a ResNet in Caffe2's blob names."""
    return "conv1_w" in keys and "res2_0_branch2a_w" in keys


def spelling_of(keys: Collection[str]) -> Spelling:
    """The spelling of a file with these keys, for `from_detres` to write it again."""
    if any(key.endswith("_gn_s") for key in keys):
        norm: NormSpelling = "group"
    elif any(key.endswith("_bn_gamma") for key in keys):
        norm = "gamma_beta"
    else:
        norm = "running" if any(key.endswith("_bn_riv") for key in keys) else "affine"
    stem = "conv1" if any(re.match(r"conv1_[bg]n_", key) for key in keys) else "res_conv1"
    return Spelling(norm, "pred" if "pred_w" in keys else "fc1000", stem)  # type: ignore[arg-type]


def to_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under detres's names, with statistics where the file has none.

    Raises WeightsError that lists the keys without a name here.
    """
    spelling = spelling_of(state)
    ours = Renaming(_pairs(spelling)).to_ours(state, NAME, IGNORABLE)
    if spelling.norm != "affine":
        return ours
    complete: dict[str, Tensor] = {}
    for key, tensor in ours.items():
        complete[key] = tensor
        if key.endswith(".bias") and _is_norm(layer := key.removesuffix("bias")):
            complete[f"{layer}running_mean"] = torch.zeros_like(tensor)
            complete[f"{layer}running_var"] = torch.full_like(tensor, 1.0 - _EPS)
    return complete


def from_detres(state: Mapping[str, Tensor], spelling: Spelling | None = None) -> dict[str, Tensor]:
    """The same tensors under blob names, in the spelling wanted; step counters of norms have no name and are left out.

    Without `spelling`, group norms are spelled group; others affine where all statistics are those that to_detres puts
    in, gamma_beta elsewhere. Raises WeightsError that lists the keys without a name, and for the spelling affine when
    there are statistics to lose.
    """
    state = {key: tensor for key, tensor in state.items() if not key.endswith(".num_batches_tracked")}
    spelling = spelling or _fitting(state)
    has_statistics = _STEM_MEAN in state
    if has_statistics == (spelling.norm == "group"):
        kind = "batch norms" if has_statistics else "norms without statistics"
        raise WeightsError(f'msra: the spelling "{spelling.norm}" does not fit {kind}; leave it to be chosen')
    if spelling.norm == "affine":
        if not _without_statistics(state):
            raise WeightsError(
                'msra: the spelling "affine" (bn_s, bn_b) has no place for the statistics of these norms; '
                'write them as "gamma_beta" or "running"'
            )
        state = {key: tensor for key, tensor in state.items() if ".running_" not in key}
    return Renaming(_pairs(spelling)).to_theirs(state, NAME)


def implied(state: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Implied:
    """The network with MSRA's pixels and stride, or FAIR's for its ResNeXts.

    Raises WeightsError when the network is no ResNet that detres builds.
    """
    found = implied_by(to_detres(state))
    if "conv1_b" not in state:
        return found
    text = "the bias of the first convolution, conv1_b, is left out, as Detectron and detectron2 do"
    return replace(found, assumed=(*found.assumed, text))


def implied_by(ours: Mapping[str, Tensor]) -> Implied:
    """What a network of MSRA's or FAIR's implies, from its tensors in detres's names."""
    model = describe_model(ours)
    backbone = model["backbone"]
    grouped = backbone.get("groups", 1) > 1
    std = STD_BGR if grouped else [1.0, 1.0, 1.0]
    assumed = [f"pixels in the order BGR, minus {MEAN_BGR}, divided by {std} (model.pixels)"]
    more: dict[str, Any] = {"pixels": {"mean": MEAN_BGR, "std": std, "channel_order": "bgr"}}
    if backbone["depth"] > 34:
        in_1x1 = not grouped and backbone["norm"] != "group"
        more["backbone"] = {"stride_in_1x1": in_1x1}
        place = "first 1x1 convolution, as MSRA's" if in_1x1 else "3x3 convolution, as FAIR's"
        assumed.append(f"bottlenecks stride in their {place} (model.backbone.stride_in_1x1)")
    return Implied(merge(model, more), (), tuple(assumed))


def instructions(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """detectron2's settings for a backbone from this file; Detectron reads its affine spelling alone."""
    return settings_for(model, len(state.get("fc.weight", ())))


def _pairs(spelling: Spelling) -> list[tuple[str, str]]:
    """Names, theirs and ours."""
    norm = _NORMS[spelling.norm]
    pairs = [("conv1_w", "backbone.conv1.weight")]
    pairs += [(f"{spelling.stem}_{there}", f"backbone.bn1.{here}") for there, here in norm.items()]
    for stage in (2, 3, 4, 5):
        for branch, (conv, bn) in _LAYERS.items():
            theirs, ours = f"res{stage}_{{i}}_{branch}", f"backbone.layer{stage - 1}.{{i}}."
            pairs.append((f"{theirs}_w", f"{ours}{conv}.weight"))
            pairs += [(f"{theirs}_{there}", f"{ours}{bn}.{here}") for there, here in norm.items()]
    return pairs + [(f"{spelling.classifier}_{there}", f"fc.{here}") for here, there in _SUFFIX.items()]


def _is_norm(layer: str) -> bool:
    return re.search(r"\.(bn\d|downsample\.1)\.$", layer) is not None


def _fitting(state: Mapping[str, Tensor]) -> Spelling:
    if _STEM_MEAN not in state:
        return Spelling("group", "pred", "conv1")
    return Spelling("affine") if _without_statistics(state) else Spelling()


def _without_statistics(state: Mapping[str, Tensor]) -> bool:
    """Whether every norm has the mean 0 and the variance that to_detres gives those of the spelling affine."""
    return _all_are(0.0, _ending(state, ".running_mean")) and _all_are(1.0 - _EPS, _ending(state, ".running_var"))


def _ending(state: Mapping[str, Tensor], suffix: str) -> list[Tensor]:
    return [tensor for key, tensor in state.items() if key.endswith(suffix)]


def _all_are(value: float, tensors: Iterable[Tensor]) -> bool:
    return all(not t.is_meta and bool((t == torch.full_like(t, value)).all()) for t in tensors)
