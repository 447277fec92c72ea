"""Batch: what one training or evaluation step gets from the loader."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detres.structures.ground_truth import GroundTruth
from detres.structures.image_batch import ImageBatch


@dataclass(frozen=True)
class BatchNote:
    """What can be said of a Batch without its pixels: little enough to tell every other process in every step."""

    image_ids: list[Any]
    files: list[str]
    skipped: tuple[str, ...] = ()
    num_dropped_boxes: int = 0

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class Batch:
    """Images and what is to be learned from them.

    images     the padded images
    targets    GroundTruth (detection) or class labels (N,) int64 (classification)
    image_ids  the data set's own id of each image
    files      the path of each image, for messages
    skipped    one message per image that could not be used and was replaced (data.on_bad_image: skip)
    num_dropped_boxes  boxes that the transforms cut away or made too small
    """

    images: ImageBatch
    targets: GroundTruth | Tensor
    image_ids: list[Any]
    files: list[str]
    skipped: tuple[str, ...] = ()
    num_dropped_boxes: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def note(self) -> BatchNote:
        """Ids, files and what was left out."""
        return BatchNote(self.image_ids, self.files, self.skipped, self.num_dropped_boxes)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device; from page-locked memory the host does not wait for the copy."""
        return replace(self, images=self.images.to(device), targets=self.targets.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())

    def tensors(self) -> list[Tensor]:
        """All tensors of the images and the targets."""
        targets = [self.targets] if isinstance(self.targets, Tensor) else self.targets.tensors()
        return self.images.tensors() + targets
