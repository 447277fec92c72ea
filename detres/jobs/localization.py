"""How a localizer is judged: which classes it is asked for in each image of a set, and by whom they are named.

Shapes: N images of a batch, M of the set, T classes asked for.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detres import wiring
from detres.classifier import Classifier
from detres.config import Config
from detres.data.localization import OneClassDataset
from detres.detector import Localizer
from detres.detector.test_time import DenseLocalizer
from detres.evaluation.inference import predict_all
from detres.structures import Detections, ImageBatch

AnyLocalizer = Localizer | DenseLocalizer


class Located(NamedTuple):
    """Of every image: boxes of the best classes, by decreasing score, and one box for the true class."""

    predictions: list[Detections]
    given: list[Detections]


def localize_all(
    model: AnyLocalizer,
    loader: Any,
    dataset: OneClassDataset,
    *,
    classes: Sequence[Detections] | None = None,
    **options: Any,
) -> Located:
    """Run a localizer over a loader of `dataset`; `options` are those of predict_all.

    classes  what names_by_classifier gave: these classes are asked for, and keep its scores; None: those that the
             localizer itself finds most likely, model.num_boxes of them
    """
    true = torch.tensor([dataset.label(i) for i in range(len(dataset))], dtype=torch.int64)[:, None]

    def find(images: ImageBatch, rows: slice) -> list[Detections]:
        response: Any = model.respond(images)  # what this model's own locate takes
        device = images.pixels.device
        named = model.most_likely(response) if classes is None else _stacked(classes[rows]).to(device)
        return model.locate(response, torch.cat([true[rows].to(device), named], dim=1), images)

    found = predict_all(model, loader, find=find, class_names=dataset.class_names, **options)
    predictions = [each[1:] for each in found]
    if classes is not None:
        predictions = [
            Detections(each.boxes_xyxy, own.scores[: len(each)], each.labels, each.class_names, each.image_size_hw)
            for each, own in zip(predictions, classes, strict=True)
        ]
    return Located(predictions, [each[:1] for each in found])


class NamingClassifier:
    """The classifier of `eval.classifier`, which names the classes that a localizer is to find, as in the paper.

    It sees the images as its own data.eval_transforms make them. Raises ValueError when the checkpoint holds none, or
    one of other classes than `class_names`.
    """

    def __init__(self, config: Config, path: str, dataset: wiring.AnyDataset) -> None:
        model, own, names = wiring.model_from_checkpoint(path)
        if not isinstance(model, Classifier):
            raise ValueError(f"eval.classifier: {path} holds a {own.kind}, expected a classifier")
        if set(names) != set(dataset.class_names):
            differing = sorted(set(names) ^ set(dataset.class_names))[:4]
            raise ValueError(
                f"eval.classifier: {path} has {len(names)} classes, expected the {len(dataset.class_names)} of the "
                f"localizer in any order; only one of them has {', '.join(map(repr, differing))}"
            )
        self._model: Any = wiring.for_inference(model, config)
        self._count = config.model.num_boxes  # type: ignore[union-attr]
        self._columns = torch.tensor([names.index(name) for name in dataset.class_names])
        data = config.data.model_copy(update={"eval_transforms": own.data.eval_transforms})
        seen = config.model_copy(update={"data": data, "model": own.model})
        self._loader = wiring.build_detection_loader(seen, dataset)

    def name_all(self, **options: Any) -> list[Detections]:
        """The most likely classes of every image with their probabilities; the boxes are empty."""
        found = predict_all(self._model.to(options["device"]), self._loader, find=self._find, **options)
        return found

    def _find(self, images: ImageBatch, _: slice) -> list[Detections]:
        scores = self._model.predict(images).float().softmax(dim=1)[:, self._columns.to(images.pixels.device)]
        labels = scores.argsort(dim=1, descending=True, stable=True)[:, : self._count]
        best = scores.gather(1, labels)
        return [Detections(s.new_zeros(len(s), 4), s, k) for s, k in zip(best, labels, strict=True)]


def _stacked(classes: Sequence[Detections]) -> Tensor:
    """The labels (N, T) of images; zeros where an image could not be read."""
    longest = max((len(each) for each in classes), default=0)
    labels = torch.zeros(len(classes), longest, dtype=torch.int64)
    for row, each in zip(labels, classes, strict=True):
        row[: len(each)] = each.labels
    return labels
