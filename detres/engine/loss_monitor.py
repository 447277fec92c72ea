"""Watches the losses without making the GPU wait: values stay on the device until somebody looks.

Shapes: B parts of a step (accumulation), T loss terms.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detres.structures import Batch, BatchNote

_FILES_NAMED = 8


def is_loss(name: str) -> bool:
    """Whether a value that a model returns in training is minimised; others, such as error_top1, are only logged."""
    return name.startswith("loss")


def total_loss(values: Mapping[str, Tensor]) -> Tensor:
    """The sum of the losses among the values of a forward pass: () float32."""
    return torch.stack([value.float() for name, value in values.items() if is_loss(name)]).sum()


class NonFiniteLoss(ArithmeticError):
    """A loss or its gradient became NaN or infinite; the message names step, terms and images.

    `batch_start` is the position of the step's batch in the stream of samples; None where no batch is to blame.
    """

    is_everywhere = True  # with several processes all of them raise it, and one message is enough

    def __init__(self, message: str, batch_start: int | None = None) -> None:
        super().__init__(message)
        self.batch_start = batch_start


@dataclass
class _Step:
    number: int
    start: int
    lr: float
    images: list[tuple[list[Any], list[str]]]  # per part: ids and files
    terms: tuple[str, ...]
    values: Tensor  # (B * T + 1,): the terms of every part, then the gradient norm


class LossMonitor:
    """Collects the loss terms and the gradient norm of each step, checks and averages them on demand.

    `report` writes a JSON file into the run directory and returns its path. With `check_gradients` a gradient that is
    not finite is an error too; a loss scaler handles those itself.
    """

    def __init__(self, report: Callable[[str, Any], Path], *, check_gradients: bool = True) -> None:
        self._report = report
        self._check_gradients = check_gradients
        self._unchecked: list[_Step] = []
        self._checked: list[dict[str, float]] = []
        self.latest: dict[str, float] = {}
        """The values of the last step of which the means were taken."""

    def add(
        self,
        step: int,
        lr: float,
        batches: Sequence[Batch | BatchNote],
        losses: Sequence[Mapping[str, Tensor]],
        grad_norm: Tensor,
        start: int = 0,
    ) -> None:
        """Note the step: its batches (one per part), the loss terms of each, and the norm of the gradient.

        `start` is where its batch begins in the stream of samples.
        """
        values = [term.detach().float() for part in losses for term in part.values()] + [grad_norm.float()]
        images = [(batch.image_ids, batch.files) for batch in batches]
        self._unchecked.append(_Step(step, start, lr, images, tuple(losses[0]), torch.stack(values)))

    def check(self) -> None:
        """Bring the values noted since the last check to the host, all in one copy.

        Raises NonFiniteLoss for the first step with a bad value, after writing bad_batch_step<n>.json.
        """
        if not self._unchecked:
            return
        rows = torch.stack([step.values for step in self._unchecked]).tolist()
        steps, self._unchecked = self._unchecked, []
        for step, (*flat, grad_norm) in zip(steps, rows, strict=True):
            width = len(step.terms)
            parts = [dict(zip(step.terms, flat[i : i + width], strict=True)) for i in range(0, len(flat), width)]
            gradient_is_bad = self._check_gradients and not math.isfinite(grad_norm)
            if gradient_is_bad or not all(math.isfinite(value) for value in flat):
                raise self._error(step, parts, grad_norm)
            means = {term: sum(part[term] for part in parts) / len(parts) for term in step.terms}
            total = sum(value for term, value in means.items() if is_loss(term))
            self._checked.append({"loss": total, **means, "grad_norm": grad_norm})

    def take_means(self) -> dict[str, float]:
        """Check, then return the mean of each value over the steps since the last call: loss, terms, grad_norm."""
        self.check()
        rows, self._checked = self._checked, []
        self.latest = rows[-1] if rows else self.latest
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}

    def unlogged(self) -> list[dict[str, float]]:
        """The checked values of the steps since the last means, for a checkpoint."""
        return [dict(row) for row in self._checked]

    def restore(self, unlogged: Sequence[Mapping[str, float]]) -> None:
        """Go on from the values of a checkpoint; what was noted since is forgotten."""
        self._unchecked, self._checked = [], [dict(row) for row in unlogged]

    def _error(self, step: _Step, parts: list[dict[str, float]], grad_norm: float) -> NonFiniteLoss:
        bad_parts = [not all(math.isfinite(value) for value in part.values()) for part in parts]
        bad_gradient_only = not any(bad_parts)
        record = {
            "step": step.number,
            "lr": step.lr,
            "grad_norm": str(grad_norm),
            "parts": [
                {
                    "losses": {term: str(value) for term, value in part.items()},
                    "image_ids": ids,
                    "files": files,
                }
                for part, (ids, files) in zip(parts, step.images, strict=True)
            ],
        }
        try:
            described = f"The batch is described in {self._report(f'bad_batch_step{step.number}.json', record)}"
        except OSError as failed:  # a full disk must hide neither what happened nor the images
            described = f"The batch is described nowhere else ({failed})"
        suspects = [i for i, bad in enumerate(bad_parts) if bad or bad_gradient_only]
        files = [file for i in suspects for file in step.images[i][1]]
        shown = ", ".join(files[:_FILES_NAMED]) + (" ..." if len(files) > _FILES_NAMED else "")
        terms = ", ".join(f"{term} {value:.4g}" for i in suspects for term, value in parts[i].items())
        what = "the gradient" if bad_gradient_only else "the loss"
        return NonFiniteLoss(
            f"step {step.number}: {what} is not finite ({terms}; gradient norm {grad_norm:.4g}, lr {step.lr:.4g}) "
            f"for the images {shown}. {described}. Lower the learning rate, lengthen the warm-up "
            f"or set clip_grad_norm; if it happens at once, look at the boxes of these images",
            step.start,
        )
