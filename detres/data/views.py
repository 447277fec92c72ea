"""Views of a data set: some of its images, or its labels in another order."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detres.data.annotations import Annotations, DatasetError, DetectionDataset, drop_messages
from detres.data.samples import ClassificationDataset


class SubsetDataset:
    """The images `indices` of `dataset`, in that order."""

    def __init__(self, dataset: DetectionDataset, indices: Sequence[int] | np.ndarray) -> None:
        self._dataset, self._indices = dataset, np.asarray(indices, dtype=np.int64)
        self.class_names, self.category_ids = dataset.class_names, dataset.category_ids
        self.drop_report = dataset.drop_report

    def __len__(self) -> int:
        return len(self._indices)

    def drop_messages(self) -> list[str]:
        """One line per reason for which annotations were left out."""
        return drop_messages(self._dataset)

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image."""
        return self._dataset.image_id(int(self._indices[index]))

    def file(self, index: int) -> str:
        """The path of an image."""
        return self._dataset.file(int(self._indices[index]))

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image as annotated."""
        return self._dataset.size_hw(int(self._indices[index]))

    def annotations(self, index: int) -> Annotations:
        """The objects of an image."""
        return self._dataset.annotations(int(self._indices[index]))

    def ground_truth_coco(self) -> dict[str, Any]:
        """The ground truth of the images in the view."""
        truth = self._dataset.ground_truth_coco()
        kept = {self.image_id(i) for i in range(len(self))}
        return {
            **truth,
            "images": [image for image in truth["images"] if image["id"] in kept],
            "annotations": [entry for entry in truth["annotations"] if entry["image_id"] in kept],
        }


class ClassificationSubset:
    """The same for a classification data set."""

    def __init__(self, dataset: ClassificationDataset, indices: Sequence[int] | np.ndarray) -> None:
        self._dataset, self._indices = dataset, np.asarray(indices, dtype=np.int64)
        self.class_names = dataset.class_names

    def __len__(self) -> int:
        return len(self._indices)

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image."""
        return self._dataset.image_id(int(self._indices[index]))

    def file(self, index: int) -> str:
        """The path of an image, or what else tells a person which one it is."""
        return self._dataset.file(int(self._indices[index]))

    def read(self, index: int) -> np.ndarray:
        """An image as (H, W, 3) uint8 RGB; ImageError when it cannot be read."""
        return self._dataset.read(int(self._indices[index]))

    def label(self, index: int) -> int:
        """The class of an image."""
        return self._dataset.label(int(self._indices[index]))


class RelabelledDataset:
    """`dataset` with the labels of `class_names`; build it with `with_classes`."""

    def __init__(self, dataset: DetectionDataset, class_names: Sequence[str]) -> None:
        self._dataset = dataset
        self.class_names = tuple(class_names)
        self._new_label = np.array([self.class_names.index(name) for name in dataset.class_names], dtype=np.int64)
        ids = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
        spare = max(ids.values(), default=0)  # classes that the file does not know get the ids above its own
        for name in self.class_names:
            if name not in ids:
                spare += 1
                ids[name] = spare
        self.category_ids = tuple(ids[name] for name in self.class_names)
        self.drop_report = dataset.drop_report

    def __len__(self) -> int:
        return len(self._dataset)

    def drop_messages(self) -> list[str]:
        """One line per reason for which annotations were left out."""
        return drop_messages(self._dataset)

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image."""
        return self._dataset.image_id(index)

    def file(self, index: int) -> str:
        """The path of an image."""
        return self._dataset.file(index)

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image as annotated."""
        return self._dataset.size_hw(index)

    def annotations(self, index: int) -> Annotations:
        """The objects of an image, with the labels of this view."""
        found = self._dataset.annotations(index)
        return replace(found, labels=self._new_label[found.labels])

    def ground_truth_coco(self) -> dict[str, Any]:
        """The ground truth, listing this view's classes."""
        named = zip(self.category_ids, self.class_names, strict=True)
        categories = [{"id": number, "name": name} for number, name in named]
        return {**self._dataset.ground_truth_coco(), "categories": categories}


def with_classes(dataset: DetectionDataset, class_names: Sequence[str], where: str = "data.val") -> DetectionDataset:
    """`dataset` with labels that index `class_names` (those that the model was trained on).

    The set may lack some of them and have them in another order. DatasetError when it has others: objects that
    the model cannot name would only count as missed. `where` names the set in the message.
    """
    if tuple(class_names) == dataset.class_names:
        return dataset
    extra = [name for name in dataset.class_names if name not in set(class_names)]
    if extra:
        raise DatasetError(
            f"{where} has classes that the training set lacks: {extra}; its classes are {list(class_names)}. "
            "Name all classes in training (VOC: class_names; COCO: categories), or remove these objects"
        )
    return RelabelledDataset(dataset, class_names)


def images_with_objects(dataset: DetectionDataset, where: str = "data.train") -> np.ndarray:
    """Indices of the images with at least one object to learn (not ignored).

    DatasetError when there is none; `where` names the set in the message.
    """
    kept = np.array([i for i in range(len(dataset)) if not dataset.annotations(i).ignore.all()], dtype=np.int64)
    if not len(kept):
        first = f", the first being {dataset.file(0)}" if len(dataset) else ""
        raise DatasetError(
            f"{where}: none of the {len(dataset)} images has an object to learn{first}; check the annotations, or set "
            "data.keep_empty_images to true"
        )
    return kept


def aspect_ratios(dataset: DetectionDataset) -> np.ndarray:
    """Width / height of every image (N,) float64."""
    sizes = np.array([dataset.size_hw(i) for i in range(len(dataset))], dtype=np.float64).reshape(-1, 2)
    ratios: np.ndarray = sizes[:, 1] / sizes[:, 0]
    return ratios


def repeat_factors(dataset: DetectionDataset, threshold: float) -> np.ndarray:
    """How often to show each image (N,) float64 so that rare classes are seen more (LVIS, Gupta et al., 2019).

    A class in a share f of the images has factor max(1, sqrt(threshold / f)); an image has the largest factor of
    its classes, and 1 without objects. Ignored regions do not count.
    """
    count = len(dataset)
    present = np.zeros((count, len(dataset.class_names)), dtype=bool)
    for i in range(count):
        found = dataset.annotations(i)
        present[i, found.labels[~found.ignore]] = True
    share = np.maximum(present.sum(axis=0), 1) / max(count, 1)
    per_class = np.maximum(1.0, np.sqrt(threshold / share))
    factors: np.ndarray = np.where(present, per_class, 1.0).max(axis=1, initial=1.0)
    return factors
