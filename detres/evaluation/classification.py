"""Top-1 and top-5 accuracy, cross-entropy, a row per class, and which classes are taken for which.

Shapes: M images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
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

MAX_CONFUSION_CLASSES = 1000
"""With more classes there is no confusion matrix: it would be larger than what it tells."""

_MOST_CONFUSED = 10


@dataclass(frozen=True)
class ClassificationMetrics:
    """The result of evaluate_classification.

    metrics    top1 and top5 in 0..1, loss in nats; None where it cannot be computed
    reasons    name -> why, for every metric that is None
    per_class  one row per class: name, num_images, num_predicted, recall (its top-1 accuracy) and precision,
               None without images or predictions of the class
    confusion  (K, K) int64: images of the class of the row that were taken for the class of the column; None without
               images and with more than MAX_CONFUSION_CLASSES classes
    """

    metrics: dict[str, float | None]
    reasons: dict[str, str]
    per_class: list[dict[str, Any]]
    confusion: Tensor | None = field(default=None, repr=False, compare=False)

    def most_confused(self, count: int = _MOST_CONFUSED) -> list[dict[str, Any]]:
        """The most frequent mistakes: class, what it was taken for, how often, and the share of the class's images."""
        if self.confusion is None:
            return []
        mistakes = self.confusion.clone().fill_diagonal_(0).flatten()
        found = mistakes.sort(descending=True, stable=True)
        pairs = zip(found.values[:count].tolist(), found.indices[:count].tolist(), strict=True)
        rows = self.per_class
        return [
            {
                "name": rows[pair // len(rows)]["name"],
                "taken_for": rows[pair % len(rows)]["name"],
                "num_images": number,
                "share": number / rows[pair // len(rows)]["num_images"],
            }
            for number, pair in pairs
            if number
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain containers, for results.json."""
        return {
            "kind": "classification",
            "metrics": self.metrics,
            "reasons": self.reasons,
            "per_class": self.per_class,
            "most_confused": self.most_confused(),
            "confusion_matrix": None if self.confusion is None else self.confusion.tolist(),
        }

    def table(self, per_class: bool = True) -> str:
        """The metrics, then (by option) a row per class and the most frequent mistakes, as plain text."""
        parts = [format_metrics(self.metrics, self.reasons, _MEANINGS)]
        if per_class and self.per_class:
            parts.append(format_rows(self.per_class))
        if per_class and (confused := self.most_confused()):
            parts.append(f"the most frequent mistakes:\n{format_rows(confused)}")
        return "\n\n".join(parts)


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
    predicted = logits.argmax(dim=1)
    confusion = None
    if num_classes <= MAX_CONFUSION_CLASSES:
        pairs = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
        confusion = pairs.reshape(num_classes, num_classes)
    return ClassificationMetrics(metrics, reasons, _per_class(predicted, rank == 0, labels, names), confusion)


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
