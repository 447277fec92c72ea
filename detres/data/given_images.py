"""Images and boxes that are named one by one, as a data set and as a loader: for benchmarks and experiments.

Shapes: N images, G boxes of one image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detres.data.annotations import Annotations
from detres.data.image_cache import ImageCache
from detres.data.image_io import read_size_hw
from detres.data.loader import EvalLoader
from detres.data.samples import TransformedDetectionDataset
from detres.data.transforms import DetectionTransforms


class GivenImages:
    """A detection data set of `files` with `boxes_xyxy` (G, 4) and `labels` (G,) for each.

    Raises ImageError for a file that is no image, and ValueError when there is not one entry of each for every file.
    """

    drop_report: dict[str, int] = {}  # nothing is left out, and nobody writes here

    def __init__(
        self, files: Sequence[str | Path], boxes_xyxy: Sequence[np.ndarray], labels: Sequence[np.ndarray]
    ) -> None:
        if not len(files) == len(boxes_xyxy) == len(labels):
            raise ValueError(f"got {len(files)} files, {len(boxes_xyxy)} arrays of boxes and {len(labels)} of labels")
        self._files = [str(file) for file in files]
        self._sizes = [read_size_hw(file) for file in self._files]
        self._boxes = [np.asarray(boxes, dtype=np.float32).reshape(-1, 4) for boxes in boxes_xyxy]
        self._labels = [np.asarray(each, dtype=np.int64).reshape(-1) for each in labels]
        count = 1 + max((int(each.max()) for each in self._labels if len(each)), default=-1)
        self.class_names = tuple(f"class {number}" for number in range(count))
        self.category_ids = tuple(range(1, count + 1))

    def __len__(self) -> int:
        return len(self._files)

    def image_id(self, index: int) -> int:
        """The place in the list, from 1."""
        return index + 1

    def file(self, index: int) -> str:
        """The path of an image."""
        return self._files[index]

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""
        return self._sizes[index]

    def annotations(self, index: int) -> Annotations:
        """The objects of an image; none is ignored."""
        boxes = self._boxes[index]
        none = np.zeros(len(boxes), dtype=bool)
        return Annotations(boxes, self._labels[index], none, none, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))

    def ground_truth_coco(self) -> dict[str, Any]:
        """Not there: these images are not for evaluation."""
        raise NotImplementedError("images given one by one are not for evaluation; make a COCO file of them")


def load_given_images(
    files: Sequence[str | Path],
    boxes_xyxy: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    steps: Sequence[Mapping[str, Any]],
    *,
    batch_size: int = 1,
    workers: int = 0,
    prefetch: int = 2,
    size_divisibility: int = 32,
    decode: str = "full",
    cache_mebibytes: int = 0,
    seed: int = 0,
) -> EvalLoader:
    """A loader of the images, transformed by `steps` (as in data.train_transforms), once through in order.

    Batches hold uint8 pixels and their boxes, as training and evaluation get them; detres.layers.pixels normalises.
    """
    dataset = GivenImages(files, boxes_xyxy, labels)
    cache = ImageCache(len(dataset), cache_mebibytes) if cache_mebibytes else None
    samples = TransformedDetectionDataset(dataset, DetectionTransforms(steps), seed, decode=decode, cache=cache)
    return EvalLoader(samples, batch_size, size_divisibility=size_divisibility, workers=workers, prefetch=prefetch)
