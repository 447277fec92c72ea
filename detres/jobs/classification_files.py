"""What an evaluation of a classifier leaves behind: predictions.csv, confusion.png, mistakes.png."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from detres.data.image_io import ImageError
from detres.data.samples import ClassificationDataset
from detres.evaluation.classification import ClassificationMetrics
from detres.evaluation.inference import ImageScores
from detres.evaluation.report import Mistake, plot_confusion, save_mistakes_grid
from detres.files.atomic_file import write_text_atomically
from detres.files.plain_text import cell

NUM_MISTAKES = 24
_NUM_BEST = 5
_IMAGES_AT_ONCE = 1000  # are sorted, to spare memory


def write_classification(
    metrics: ClassificationMetrics, scores: ImageScores, dataset: ClassificationDataset, folder: Path
) -> list[Path]:
    """Write the files into `folder`; returns their paths. There is no confusion.png without a confusion matrix."""
    write_text_atomically(folder / "predictions.csv", _predictions_csv(scores, dataset))
    written = [folder / "predictions.csv"]
    if metrics.confusion is not None:
        plot_confusion(metrics.confusion, dataset.class_names, folder / "confusion.png")
        written.append(folder / "confusion.png")
    save_mistakes_grid(_mistakes(scores, dataset), folder / "mistakes.png", num_images=len(scores.labels))
    return [*written, folder / "mistakes.png"]


def _predictions_csv(scores: ImageScores, dataset: ClassificationDataset) -> str:
    """A row per image: its id, true class, and the best classes with their probabilities."""
    names = [cell(name) for name in dataset.class_names]
    num_best = min(_NUM_BEST, len(names))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    best = [f"{what}_{place}" for place in range(1, num_best + 1) for what in ("class", "probability")]
    writer.writerow(["image_id", "label", "predicted", *best])
    for logits, labels, rows in zip(*(part.split(_IMAGES_AT_ONCE) for part in scores), strict=True):
        classes = logits.argsort(dim=1, descending=True, stable=True)[:, :num_best]  # equal scores: lower label first
        values = logits.softmax(dim=1).gather(1, classes)
        for row, label, found, shares in zip(*(part.tolist() for part in (rows, labels, classes, values)), strict=True):
            pairs = [value for k, share in zip(found, shares, strict=True) for value in (names[k], f"{share:.6f}")]
            writer.writerow([cell(str(dataset.image_id(row))), names[label], names[found[0]], *pairs])
    return text.getvalue()


def _mistakes(scores: ImageScores, dataset: ClassificationDataset) -> list[Mistake]:
    """The mistakes of which the classifier is surest."""
    if not len(scores.labels):
        return []
    probability, predicted = scores.logits.softmax(dim=1).max(dim=1)
    wrong = torch.nonzero(predicted != scores.labels).flatten()
    surest = wrong[probability[wrong].argsort(descending=True, stable=True)].tolist()
    return _pictures(surest, scores, dataset, probability.tolist(), predicted.tolist())


def _pictures(
    chosen: Sequence[int],
    scores: ImageScores,
    dataset: ClassificationDataset,
    probability: Sequence[float],
    predicted: Sequence[int],
) -> list[Mistake]:
    """The first of the chosen images that can be read (they could a moment ago)."""
    names, found = dataset.class_names, []
    for place in chosen[:NUM_MISTAKES]:
        try:
            image = dataset.read(int(scores.rows[place]))
        except ImageError:
            continue
        label = int(scores.labels[place])
        found.append(Mistake(image, names[label], names[predicted[place]], probability[place]))
    return found
