"""From a data set's index to a transformed sample, and from samples to a batch.

Shapes: N images, G boxes; images leave as (3, h, w) uint8 RGB. Everything random about a sample comes from
(seed, epoch, position in the epoch), so it depends on no worker, rank or restart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from detres.data.annotations import DetectionDataset
from detres.data.image_cache import ImageCache
from detres.data.image_io import ImageError, NeededSize, ReadImage, read_image_for
from detres.data.labelled_files import LabelledFiles
from detres.data.transforms import DetectionTransforms
from detres.structures import Batch, GroundTruth, ImageBatch
from detres.structures.random import derive_seed

MAX_ATTEMPTS = 10
"""How many images in a row may be unreadable before a run with on_bad_image "skip" gives up."""

_TRANSFORMS, _REPLACEMENT = 1, 2  # keep the random numbers of one sample apart by use


class SampleKey(NamedTuple):
    """Which image, in which epoch, as which of the epoch's samples."""

    image: int
    epoch: int
    position: int


@dataclass(frozen=True)
class Sample:
    """One transformed image with what is to be learned from it.

    image             (3, h, w) uint8
    original_size_hw  height and width of the image as read
    sampling_seed     key of the random sampling inside the model
    skipped           why other images could not be used in this place
    labels            (G,) int64, or () for classification
    boxes_xyxy, ignore, num_dropped_boxes  detection only
    """

    image: Tensor
    original_size_hw: tuple[int, int]
    image_id: int | str
    file: str
    sampling_seed: int
    skipped: tuple[str, ...]
    labels: Tensor
    boxes_xyxy: Tensor = torch.zeros(0, 4)
    ignore: Tensor = torch.zeros(0, dtype=torch.bool)
    num_dropped_boxes: int = 0


class ClassificationDataset(Protocol):
    """What is asked of a classification data set."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""

    def __len__(self) -> int: ...

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image."""

    def file(self, index: int) -> str:
        """The path of an image, or what else tells a person which one it is."""

    def read(self, index: int) -> np.ndarray:
        """An image as (H, W, 3) uint8 RGB; ImageError when it cannot be read."""

    def label(self, index: int) -> int:
        """The class of an image, 0 ... K-1."""


class TransformedSamples(Protocol):
    """What the loaders ask for: samples by key, and how to make a batch of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: SampleKey) -> Sample: ...

    def collate(self, samples: Sequence[Sample], size_divisibility: int) -> Batch: ...


class TransformedDetectionDataset:
    """The images of a detection data set, read, transformed and ready to be batched.

    seed          the run's seed
    on_bad_image  "error": an unreadable image raises ImageError; "skip": another image takes its place, and the
                  batch carries the message, which an evaluation must heed: there every image counts
    decode        "full", or "reduced": JPEGs that the transforms begin by shrinking are decoded at 1/2, 1/4 or 1/8 of
                  their size. Sizes and boxes stay the same, pixels change a little (detres.data.decoding.MARGIN)
    cache         keeps the images as decoded
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transforms: DetectionTransforms,
        seed: int = 0,
        on_bad_image: str = "error",
        *,
        decode: str = "full",
        cache: ImageCache | None = None,
    ) -> None:
        self.dataset, self._transforms, self._seed = dataset, transforms, seed
        self._attempts, self._reduces, self._cache = _attempts(on_bad_image), _reduces(decode), cache

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample:
        seed = derive_seed(self._seed, key.epoch, key.position, _TRANSFORMS)
        needed = partial(self._transforms.needed_hw, seed=seed) if self._reduces else None
        read_one = partial(_through, self._cache, self._read_image, needed)
        index, image, skipped = _read(read_one, key, len(self), self._seed, self._attempts)
        found = self.dataset.annotations(index)
        made = self._transforms(image.pixels, found.boxes_xyxy, found.labels, found.ignore, seed, image.size_hw)
        return Sample(
            _to_chw(made.image),
            image.size_hw,
            self.dataset.image_id(index),
            self.dataset.file(index),
            derive_seed(self._seed, key.epoch, key.position),
            skipped,
            torch.from_numpy(made.labels),
            torch.from_numpy(made.boxes_xyxy),
            torch.from_numpy(made.ignore),
            made.num_dropped,
        )

    def collate(self, samples: Sequence[Sample], size_divisibility: int) -> Batch:
        """A batch with GroundTruth targets."""
        targets = GroundTruth.from_lists(
            [sample.boxes_xyxy for sample in samples],
            [sample.labels for sample in samples],
            [sample.ignore for sample in samples],
        )
        return _make_batch(samples, targets, size_divisibility)

    def _read_image(self, index: int, needed: NeededSize | None) -> ReadImage:
        return read_image_for(self.dataset.file(index), self.dataset.size_hw(index), needed)


class TransformedClassificationDataset:
    """The images of a classification data set; settings as for TransformedDetectionDataset."""

    def __init__(
        self,
        dataset: ClassificationDataset,
        transforms: DetectionTransforms,
        seed: int = 0,
        on_bad_image: str = "error",
        *,
        decode: str = "full",
        cache: ImageCache | None = None,
    ) -> None:
        self.dataset, self._transforms, self._seed = dataset, transforms, seed
        self._attempts, self._reduces, self._cache = _attempts(on_bad_image), _reduces(decode), cache

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample:
        seed = derive_seed(self._seed, key.epoch, key.position, _TRANSFORMS)
        needed = partial(self._transforms.needed_hw, seed=seed) if self._reduces else None
        read_one = partial(_through, self._cache, self._read_image, needed)
        index, image, skipped = _read(read_one, key, len(self), self._seed, self._attempts)
        nothing = np.zeros(0)
        made = self._transforms(image.pixels, nothing, nothing, nothing, seed, image.size_hw)
        return Sample(
            _to_chw(made.image),
            image.size_hw,
            self.dataset.image_id(index),
            self.dataset.file(index),
            derive_seed(self._seed, key.epoch, key.position),
            skipped,
            torch.tensor(self.dataset.label(index), dtype=torch.int64),
        )

    def collate(self, samples: Sequence[Sample], size_divisibility: int) -> Batch:
        """A batch with labels (N,) int64 as targets."""
        return _make_batch(samples, torch.stack([sample.labels for sample in samples]), size_divisibility)

    def _read_image(self, index: int, needed: NeededSize | None) -> ReadImage:
        if isinstance(self.dataset, LabelledFiles):
            return read_image_for(self.dataset.file(index), needed=needed)
        pixels = self.dataset.read(index)
        return ReadImage(pixels, (pixels.shape[0], pixels.shape[1]))


def _attempts(on_bad_image: str) -> int:
    """How many images may be tried for one sample."""
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f'on_bad_image must be "error" or "skip", got {on_bad_image!r}')
    return 1 if on_bad_image == "error" else MAX_ATTEMPTS


def _reduces(decode: str) -> bool:
    if decode not in ("full", "reduced"):
        raise ValueError(f'decode must be "full" or "reduced", got {decode!r}')
    return decode == "reduced"


def _through(
    cache: ImageCache | None,
    read_one: Callable[[int, NeededSize | None], ReadImage],
    needed: NeededSize | None,
    index: int,
) -> ReadImage:
    """An image as kept in the cache, or else as read, and from then on kept there."""
    if cache is None:
        return read_one(index, needed)
    image = cache.get(index, needed)
    if image is None:
        image = read_one(index, needed)
        cache.put(index, image)
    return image


def _read(
    read_one: Callable[[int], ReadImage], key: SampleKey, count: int, seed: int, attempts: int
) -> tuple[int, ReadImage, tuple[str, ...]]:
    """The index and pixels of the key's image, or of one drawn in its place, and why others were passed over."""
    index = key.image
    skipped: list[str] = []
    for attempt in range(1, attempts + 1):
        try:
            return index, read_one(index), tuple(skipped)
        except ImageError as error:
            if attempts == 1:
                raise ImageError(f"{error}. Set data.on_bad_image to skip to go on without such images") from error
            skipped.append(str(error))
        index = derive_seed(seed, key.epoch, key.position, _REPLACEMENT, attempt) % count
    raise ImageError(f"{attempts} images in a row could not be read; the last: {skipped[-1]}")


def _to_chw(image: np.ndarray) -> Tensor:
    """The image (H, W, 3) as a tensor (3, H, W); the batch makes the copy."""
    return torch.from_numpy(image).permute(2, 0, 1)


def _make_batch(samples: Sequence[Sample], targets: GroundTruth | Tensor, size_divisibility: int) -> Batch:
    images = ImageBatch.from_images(
        [sample.image for sample in samples],
        [sample.original_size_hw for sample in samples],
        size_divisibility,
        [sample.sampling_seed for sample in samples],
        shared=get_worker_info() is not None,  # then it is on its way to another process
    )
    return Batch(
        images,
        targets,
        [sample.image_id for sample in samples],
        [sample.file for sample in samples],
        tuple(message for sample in samples for message in sample.skipped),
        sum(sample.num_dropped_boxes for sample in samples),
    )
