"""Top-1 and top-5 accuracy, cross-entropy, and a row per class.

Shapes: M images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detres.evaluation.metrics import format_metrics, format_rows

_MEANINGS = {
    "top1": "share of images whose best-scored class is right",
    "top5": "share of images whose class is among the five best-scored",
    "loss": "mean cross-entropy, in nats",
}


@dataclass(frozen=True)
class ClassificationMetrics:
    """The result of evaluate_classification.

    metrics    top1 and top5 in 0..1, loss in nats; None where it cannot be computed
    reasons    name -> why, for every metric that is None
    per_class  one row per class: name, num_images, num_predicted, recall (its top-1 accuracy) and precision,
               None without images or predictions of the class
    """

    metrics: dict[str, float | None]
    reasons: dict[str, str]
    per_class: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain containers, for results.json."""
        return {
            "kind": "classification",
            "metrics": self.metrics,
            "reasons": self.reasons,
            "per_class": self.per_class,
        }

    def table(self, per_class: bool = True) -> str:
        """The metrics, then a row per class (by option), as plain text."""
        metrics = format_metrics(self.metrics, self.reasons, _MEANINGS)
        return f"{metrics}\n\n{format_rows(self.per_class)}" if per_class and self.per_class else metrics


def evaluate_classification(logits: Tensor, labels: Tensor, class_names: Sequence[str] = ()) -> ClassificationMetrics:
    """Accuracy and loss of logits (M, K) for labels (M,) int64 in 0 ... K-1.

    Among equal scores the class of the lower label comes first. Raises ValueError when shapes or labels do not fit,
    or when a logit is not finite.
    """
    _check(logits, labels, class_names)
    if not len(labels):
        return ClassificationMetrics(dict.fromkeys(_MEANINGS), dict.fromkeys(_MEANINGS, "there are no images"), [])
    logits, num_classes = logits.double(), logits.shape[1]
    rank = _rank_of(logits, labels)
    metrics: dict[str, float | None] = {
        "top1": (rank < 1).double().mean().item(),
        "top5": (rank < 5).double().mean().item(),
        "loss": F.cross_entropy(logits, labels).item(),
    }
    reasons: dict[str, str] = {}
    if num_classes <= 5:
        metrics["top5"], reasons["top5"] = None, f"with {num_classes} classes the five best-scored are all of them"
    names = class_names or [f"class {label}" for label in range(num_classes)]
    return ClassificationMetrics(metrics, reasons, _per_class(logits.argmax(dim=1), rank == 0, labels, names))


def _check(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (M, K) and labels (M,), got shapes {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if not len(labels):
        return
    num_classes = logits.shape[1]
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"the model scores {num_classes} classes, but the data set names {len(class_names)}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels lie in {int(labels.min())} ... {int(labels.max())}, but the model scores {num_classes} classes; "
            "evaluate on the classes that it was trained on"
        )
    if num_bad := int((~logits.isfinite()).any(dim=1).sum()):
        raise ValueError(f"the logits of {num_bad} of {len(logits)} images are not finite: the model has diverged")


def _rank_of(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one: (M,)."""
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1], device=labels.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(dim=1)


def _per_class(predicted: Tensor, hits: Tensor, labels: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    images, guesses, right = (
        torch.bincount(chosen, minlength=len(names)).tolist() for chosen in (labels, predicted, labels[hits])
    )
    return [
        {
            "name": name,
            "num_images": images[label],
            "num_predicted": guesses[label],
            "recall": right[label] / images[label] if images[label] else None,
            "precision": right[label] / guesses[label] if guesses[label] else None,
        }
        for label, name in enumerate(names)
    ]
