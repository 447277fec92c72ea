"""Weights of a plain detector as the start of one with further stages or global context."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_HEADS = "roi_heads."
_STAGES = "roi_heads.earlier_stages."
_PREDICTOR = re.compile(r"^roi_heads\..*box_predictor\.(cls_score|bbox_pred)\.weight$")


class Grown(NamedTuple):
    """A state dict with what was missing, and how it came to it ("" when nothing was)."""

    state_dict: dict[str, Tensor]
    how: str


def grow_second_stage(state_dict: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Grown:
    """`state_dict` with the tensors that a cascade or global context in `model` (a state dict too) has besides.

    Every earlier stage of a cascade begins as the file's only stage. Predictors that see the whole image's feature
    beside the region's begin with weights of zero for it, so that they predict what the file's predict.
    """
    grown, how = dict(state_dict), []
    stages = {match[1] for key in model if (match := re.match(r"roi_heads\.earlier_stages\.(\d+)\.", key))}
    if stages and not any(key.startswith(_STAGES) for key in state_dict):
        only_stage = {key.removeprefix(_HEADS): t for key, t in state_dict.items() if key.startswith(_HEADS)}
        grown |= {f"{_STAGES}{stage}.{key}": t for stage in stages for key, t in only_stage.items()}
        how.append(f"its second stage as the start of all {len(stages) + 1}")
    wider = {key: widened for key in grown if (widened := _with_context(key, grown[key], model)) is not None}
    if wider:
        how.append("nothing from the global context at first")
    return Grown(grown | wider, ", ".join(how))


def _with_context(key: str, weight: Tensor, model: Mapping[str, Tensor]) -> Tensor | None:
    """A predictor's weight (rows, D) as (rows, 2 * D), where `model` has that; None elsewhere."""
    if not _PREDICTOR.match(key) or key not in model or model[key].shape[1] != 2 * weight.shape[1]:
        return None
    return torch.cat([weight, torch.zeros_like(weight)], dim=1)
