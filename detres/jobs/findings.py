"""What prediction writes down about an image: the objects that a detector finds, the classes that a localizer
locates, or the labels of a classifier.

Shapes: H, W height and width.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL.Image import Image

from detres.api import AnyPredictor, Detector, ImageClassifier, ImageLocalizer
from detres.files.plain_text import cell
from detres.structures import Classification, Detections

NUM_LABELS = 5
_CSV_COLUMNS = ("file", "frame", "time", *(f"{key}_{i + 1}" for i in range(NUM_LABELS) for key in ("name", "score")))


class Finding(NamedTuple):
    """About one image: what the JSON file says, for how many things that counts, and the picture that shows it."""

    row: dict[str, Any]
    num_found: int
    picture: Image


class Finder(Protocol):
    """A model as prediction uses it.

    suffix     what is added to the names of its pictures
    json_name  the name of its JSON file
    """

    suffix: str
    json_name: str

    def find(self, images: Sequence[np.ndarray]) -> Iterator[Finding]:
        """What there is in images (H, W, 3) uint8 RGB, which go through the network as one batch."""

    def describe(self, num_found: int, num_images: int) -> str:
        """One line for a person."""

    def write_tables(self, folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """Write files beside the JSON file, of whose "images" `entries` are; returns their names."""


def make_finder(predictor: AnyPredictor, score_threshold: float | None, classes: Sequence[str] | None = None) -> Finder:
    """The finder of that model. Raises ValueError for a threshold outside 0..1, and classes it cannot be asked for.

    score_threshold  objects, labels and located classes below it are left out; default: 0.5 for objects, else 0
    classes          what a localizer is to find; None: the most likely classes
    """
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must lie in 0..1, got {score_threshold}")
    if isinstance(predictor, ImageLocalizer):
        return ClassLocator(predictor, score_threshold or 0.0, classes)
    if classes is not None:
        raise ValueError(f"--class: got {', '.join(classes)}, expected none: only a localizer is asked for classes")
    if isinstance(predictor, Detector):
        return ObjectFinder(predictor, 0.5 if score_threshold is None else score_threshold)
    return LabelFinder(predictor, score_threshold or 0.0)


class ObjectFinder:
    """A detector: boxes on the picture."""

    suffix = "_detections"
    json_name = "detections.json"

    def __init__(self, detector: Detector, score_threshold: float) -> None:
        self._detector, self._score_threshold = detector, score_threshold

    def find(self, images: Sequence[np.ndarray]) -> Iterator[Finding]:
        """{"detections": [{"box_xyxy", "score", "label", "name"}, ...]} of every image."""
        found = self._detector.predict(
            list(images), score_threshold=self._score_threshold, batch_size=len(images), keep_images=False
        )
        return (self._finding(one, image) for one, image in zip(found, images, strict=True))

    def _finding(self, found: Detections, image: np.ndarray) -> Finding:
        return Finding({"detections": _box_rows(found)}, len(found), found.draw(image, score_threshold=0.0))

    def describe(self, num_found: int, num_images: int) -> str:
        """One line for a person."""
        return f"{num_found} objects in {num_images} images"

    def write_tables(self, folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """None: boxes do not fit a table with a line for each image."""
        return []


class ClassLocator:
    """A localizer: one box a class; on the picture that of the best class, or of all that were asked for."""

    suffix = "_located"
    json_name = "detections.json"

    def __init__(self, localizer: ImageLocalizer, score_threshold: float, classes: Sequence[str] | None) -> None:
        self._localizer, self._score_threshold, self._classes = localizer, score_threshold, classes

    def find(self, images: Sequence[np.ndarray]) -> Iterator[Finding]:
        """{"detections": [{"box_xyxy", "score", "label", "name"}, ...]} of every image, the best first."""
        found = self._localizer.predict(
            list(images),
            classes=self._classes,
            score_threshold=self._score_threshold,
            batch_size=len(images),
            keep_images=False,
        )
        return (self._finding(one, image) for one, image in zip(found, images, strict=True))

    def _finding(self, found: Detections, image: np.ndarray) -> Finding:
        shown = found if self._classes is not None else found[:1]
        picture = shown.draw(image, score_threshold=0.0, enlarge=True)
        return Finding({"detections": _box_rows(found)}, int(bool(len(found))), picture)

    def describe(self, num_found: int, num_images: int) -> str:
        """One line for a person."""
        of = "" if num_found == num_images else f" of {num_images}"
        return f"a class located in {num_found}{of} images"

    def write_tables(self, folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """None, as for a detector."""
        return []


def _box_rows(found: Detections) -> list[dict[str, Any]]:
    """Boxes as the JSON file has them."""
    columns = (found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), found.names())
    keys = ("box_xyxy", "score", "label", "name")
    return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]


class LabelFinder:
    """A classifier: the most probable classes below the picture, and in a table that spreadsheets read."""

    suffix = "_label"
    json_name = "predictions.json"

    def __init__(self, classifier: ImageClassifier, score_threshold: float) -> None:
        self._classifier, self._score_threshold = classifier, score_threshold

    def find(self, images: Sequence[np.ndarray]) -> Iterator[Finding]:
        """{"predictions": [{"name", "label", "score"}, ...]} of every image, the best first."""
        found = self._classifier.predict(list(images), batch_size=len(images), keep_images=False)
        return (self._finding(one, image) for one, image in zip(found, images, strict=True))

    def _finding(self, found: Classification, image: np.ndarray) -> Finding:
        rows = [
            {"name": found.name_of(label), "label": label, "score": score}
            for label in found.top_labels(NUM_LABELS)
            if (score := float(found.scores[label])) >= self._score_threshold
        ]
        picture = found.draw(image, NUM_LABELS, self._score_threshold)
        return Finding({"predictions": rows}, int(bool(rows)), picture)

    def describe(self, num_found: int, num_images: int) -> str:
        """One line for a person."""
        of = "" if num_found == num_images else f" of {num_images}"
        return f"{num_found}{of} images labelled"

    def write_tables(self, folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """predictions.csv: a line for each image, its labels beside each other."""
        name = "predictions.csv"
        with open(folder / name, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            table = csv.writer(file)
            table.writerow(_CSV_COLUMNS)
            for entry in entries:
                labels = [value for row in entry["predictions"] for value in (cell(row["name"]), row["score"])]
                cells = [cell(entry["file"]), entry.get("frame", ""), entry.get("time", ""), *labels]
                table.writerow(cells + [""] * (len(_CSV_COLUMNS) - len(cells)))
        return [name]
