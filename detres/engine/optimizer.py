"""Optimizers: every trainable parameter once, in groups of equal learning-rate factor and weight decay."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def build_optimizer(
    model: nn.Module,
    *,
    type: Literal["sgd", "adamw"],
    lr: float,
    weight_decay: float,
    norm_weight_decay: float | None = None,
    bias_weight_decay: float | None = None,
    groups: Sequence[Mapping[str, Any]] = (),
    momentum: float = 0.9,
    nesterov: bool = False,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """SGD or AdamW over the parameters of `model` that are not frozen.

    `norm_weight_decay` holds for weights and biases of norms, `bias_weight_decay` for other biases (None: as
    `weight_decay`). Each of `groups` is a mapping with `match` (a regular expression searched in the parameter's name)
    and `lr_factor`, `weight_decay` (None: as without it); the first match counts. The groups of the optimizer carry
    `initial_lr`, the learning rate that a schedule multiplies.
    Raises ValueError when a pattern is invalid or matches nothing, and when nothing is left to train.
    """
    decays = (weight_decay, norm_weight_decay, bias_weight_decay)
    gathered: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    patterns = [_compile(group["match"], model) for group in groups]
    for name, parameter, is_norm in _trainable_parameters(model):
        factor, decay = 1.0, _default_decay(name, is_norm, *decays)
        for pattern, group in zip(patterns, groups, strict=True):
            if pattern.search(name):
                factor = group.get("lr_factor", 1.0)
                decay = decay if group.get("weight_decay") is None else group["weight_decay"]
                break
        gathered.setdefault((factor, decay), []).append((name, parameter))
    if not gathered:
        raise ValueError("the model has no parameter to train: all are frozen; unfreeze some stages")
    parameter_groups: list[dict[str, Any]] = [
        {"params": members, "lr": lr * factor, "initial_lr": lr * factor, "weight_decay": decay}
        for (factor, decay), members in gathered.items()
    ]
    # The fused kernels exist for floating-point parameters on cpu and cuda; elsewhere torch chooses.
    fused = all(p.device.type in ("cpu", "cuda") for members in gathered.values() for _, p in members) or None
    if type == "sgd":
        return SGD(parameter_groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    return AdamW(parameter_groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=fused)


def set_learning_rate(optimizer: Optimizer, factor: float) -> float:
    """Set every group's rate to `factor` times its initial one; returns that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return float(optimizer.param_groups[0]["lr"])


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """The state of each parameter (momentum, moments) by the parameter's name, for a checkpoint."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: dict(state) for parameter, state in optimizer.state.items()}


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Give each parameter its state back. Learning rates and decays stay as configured now.

    Raises ValueError when `state` belongs to other parameters or to another optimizer.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    members = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    unknown = sorted(set(state) - {names[parameter] for parameter in members})
    if unknown:
        raise ValueError(
            f"the checkpoint's optimizer trained {', '.join(unknown[:3])}{' ...' if len(unknown) > 3 else ''}, "
            f"which this configuration does not train: resume with the frozen stages and groups of that run"
        )
    indexed = {
        index: {key: _laid_out_as(parameter, value) for key, value in state[names[parameter]].items()}
        for index, parameter in enumerate(members)
        if names[parameter] in state
    }
    for entry in indexed.values():
        expected = {"momentum_buffer"} if isinstance(optimizer, SGD) else {"step", "exp_avg", "exp_avg_sq"}
        if isinstance(optimizer, SGD | AdamW) and not set(entry) <= expected:
            raise ValueError(
                f"the checkpoint's optimizer keeps {', '.join(sorted(entry))}, {optimizer.__class__.__name__} keeps "
                f"{', '.join(sorted(expected))}: resume with the optimizer type of that run"
            )
    optimizer.load_state_dict({"state": indexed, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_as(parameter: Tensor, value: Any) -> Any:
    """`value` with the strides of its parameter: the fused kernels walk over both as flat memory."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def _trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Name, parameter and whether it belongs to a norm, each parameter once even where modules share it."""
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield f"{prefix}.{name}" if prefix else name, parameter, isinstance(module, _NORMS)


def _default_decay(
    name: str, is_norm: bool, weight_decay: float, norm_weight_decay: float | None, bias_weight_decay: float | None
) -> float:
    special = norm_weight_decay if is_norm else bias_weight_decay if name.split(".")[-1] == "bias" else None
    return weight_decay if special is None else special


def _compile(pattern: str, model: nn.Module) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"optimizer group {pattern!r} is not a regular expression: {error}") from error
    names = [name for name, _ in model.named_parameters()]
    if not any(compiled.search(name) for name in names):
        prefixes = sorted({".".join(name.split(".")[:2]) for name in names})
        raise ValueError(
            f"optimizer group {pattern!r} matches no parameter; their names begin with {', '.join(prefixes[:12])}"
        )
    return compiled
