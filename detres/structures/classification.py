"""Classification: what a classifier says about one image.

Shapes: K classes.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Classification:
    """The probability of every class.

    scores         (K,) float32 in [0, 1], summing to 1
    class_names    one name per class, or empty when nobody named them
    image_size_hw  height and width of the image as given
    image          (3, H, W) uint8 RGB, when it was kept for drawing

    Raises ValueError when scores are not one per class, or not finite.
    """

    scores: Tensor
    class_names: tuple[str, ...] = ()
    image_size_hw: tuple[int, ...] = ()
    image: Tensor | None = None

    def __post_init__(self) -> None:
        if self.scores.dim() != 1 or not len(self.scores):
            raise ValueError(f"scores must be (K,), one per class, got shape {tuple(self.scores.shape)}")
        if self.class_names and len(self.class_names) != len(self.scores):
            raise ValueError(f"got {len(self.scores)} scores and {len(self.class_names)} class names: one per class")
        if not bool(self.scores.isfinite().all()):
            raise ValueError("the scores are not finite: the weights are damaged, or their training has diverged")

    def top_labels(self, k: int = 5) -> list[int]:
        """The `k` most probable labels (all of them, if there are fewer), the best first, equal ones in order."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        return self.scores.argsort(descending=True, stable=True)[:k].tolist()

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """(name, score) of the `k` most probable classes, the best first."""
        return [(self.name_of(label), float(self.scores[label])) for label in self.top_labels(k)]

    def name_of(self, label: int) -> str:
        """The name of a class ("class 3" where classes have no names)."""
        return self.class_names[label] if self.class_names else f"class {label}"

    @property
    def label(self) -> int:
        """The most probable class, 0 ... K-1."""
        return self.top_labels(1)[0]

    @property
    def name(self) -> str:
        """The name of the most probable class."""
        return self.name_of(self.label)

    @property
    def score(self) -> float:
        """The probability of the most probable class."""
        return float(self.scores[self.label])

    def draw(self, image: Any = None, k: int = 5, score_threshold: float = 0.0) -> Any:
        """A PIL picture of the image with the `k` most probable classes below it, those of at least `score_threshold`.

        `image`: (3, H, W) uint8 tensor, (H, W, 3) uint8 array or PIL image; default: the one that was kept.
        Raises ValueError when there is none.
        """
        from detres.structures.drawing import draw_labels

        picture = self.image if image is None else image
        if picture is None:
            raise ValueError(
                "this classification carries no image: pass one, as in classification.draw(image), "
                "or get it from ImageClassifier.predict, which keeps it"
            )
        labels = [label for label in self.top_labels(k) if self.scores[label] >= score_threshold]
        names = [self.name_of(label) for label in labels]
        return draw_labels(picture, names, self.scores[labels].tolist(), labels, lines=min(k, len(self.scores)))
