"""Training steps of both sides: detres's own TrainStep, and the step of torch's tutorials.

The learning rate is 0: a step costs the same, and every repeat finds the same weights.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detres.engine.optimizer import build_optimizer
from detres.engine.records import TrainerSettings
from detres.engine.train_step import TrainStep
from detres.jobs.benchmark.agreement import gradients, same_tensors, same_value
from detres.jobs.benchmark.conditions import Conditions
from detres.jobs.benchmark.timing import Lap
from detres.structures import Batch

_SGD: dict[str, Any] = {"lr": 0.0, "momentum": 0.9, "weight_decay": 1e-4}
_TOLERANCES = {  # losses, gradient: of the step that is timed, against the same step without any option
    "float32": (1e-3, 1e-2),
    "bfloat16": (0.1, 0.5),
    "float16": (0.1, 0.5),
}


def plain_step(model: nn.Module, conditions: Conditions) -> TrainStep:
    """The step of a copy of `model` in float32, without options."""
    return _make_step(model, TrainerSettings(steps=1), conditions)


def timed_step(model: nn.Module, conditions: Conditions) -> TrainStep:
    """The step of a copy of `model` with the options that `conditions` ask for, and the memory format of its choice."""
    options = TrainerSettings(steps=1, precision=conditions.precision, channels_last="auto", compile=conditions.compile)
    return _make_step(model, options, conditions)


def _make_step(model: nn.Module, settings: TrainerSettings, conditions: Conditions) -> TrainStep:
    model = copy.deepcopy(model).train()
    return TrainStep(model, build_optimizer(model, type="sgd", **_SGD), settings, conditions.device)


def our_training(step: TrainStep, make_batch: Callable[[], Batch]) -> Callable[[Lap], None]:
    """One step; the batch is made anew in each."""

    def run(lap: Lap) -> None:
        batch = make_batch()
        lap("input")
        step.gradients(1, [batch])
        lap("backward")
        step.update()
        lap("optimizer")

    return run


def their_training(
    model: nn.Module, losses: Callable[[], Mapping[str, Tensor]], conditions: Conditions
) -> Callable[[Lap], None]:
    """One step of SGD on the sum of `losses()`, which `model` computes."""
    learning = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, **_SGD)

    def run(lap: Lap) -> None:
        torch.manual_seed(0)  # torchvision samples by the global generator
        with conditions.their_autocast():
            loss = torch.stack(list(losses().values())).sum()
        optimizer.zero_grad()
        loss.backward()
        lap("backward")
        optimizer.step()
        lap("optimizer")

    return run


def check_steps(plain: TrainStep, timed: TrainStep, batch: Batch) -> dict[str, Any]:
    """Losses and gradient of the step that is timed, against those of the plain one, at the same random choices.

    Raises DifferentWork beyond the tolerance of its number format.
    """
    expected = _losses_and_gradients(plain, batch)
    got = _losses_and_gradients(timed, batch)
    for_losses, for_gradient = _TOLERANCES[timed.settings.precision]
    same: dict[str, Any] = {
        f"timed {name}": same_value(name, value, got[0][name], for_losses, "plain detres")
        for name, value in expected[0].items()
        if name.startswith("loss")
    }
    same["timed gradient"] = same_tensors("gradient", expected[1], got[1], for_gradient)
    return same


def _losses_and_gradients(step: TrainStep, batch: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
    losses, _ = step.gradients(1, [batch])
    found = {name: float(value.detach()) for name, value in losses[0].items()}
    return found, gradients(step.model)


def describe(step: TrainStep) -> dict[str, str]:
    """The options of one of our steps, as a report names them."""
    settings = step.settings
    return {
        "precision": settings.precision,
        "mode": "compiled" if settings.compile else "eager",
        "memory format": "channels last" if step.channels_last else "planes",
    }
