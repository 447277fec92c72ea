"""GroundTruth: the annotated boxes of a batch, padded to one length.

Shapes: N images, G boxes of the fullest image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class GroundTruth:
    """Boxes to be found.

    boxes_xyxy  (N, G, 4) float32, in pixels of the resized images; zeros in the padding
    labels      (N, G) int64, 0 ... K-1
    valid       (N, G) bool, true for real objects to be learned
    ignore      (N, G) bool, true for crowd or ignored regions: nothing there is a positive or a negative

    `valid` and `ignore` exclude each other; in the padding both are false. `any_ignore` is known on the host,
    so that batches without crowds (nearly all) skip that work without asking the device.
    """

    boxes_xyxy: Tensor
    labels: Tensor
    valid: Tensor
    ignore: Tensor
    any_ignore: bool = True

    @classmethod
    def from_lists(
        cls, boxes: Sequence[Tensor], labels: Sequence[Tensor], ignore: Sequence[Tensor] | None = None
    ) -> "GroundTruth":
        """Pad one entry per image: boxes (g, 4), labels (g,), ignore (g,) bool (default: none). g may be 0."""
        count, longest = len(boxes), max((len(b) for b in boxes), default=0)
        out = cls(
            torch.zeros(count, longest, 4),
            torch.zeros(count, longest, dtype=torch.int64),
            torch.zeros(count, longest, dtype=torch.bool),
            torch.zeros(count, longest, dtype=torch.bool),
        )
        for i, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
            n = len(image_boxes)
            out.boxes_xyxy[i, :n] = image_boxes.reshape(n, 4)
            out.labels[i, :n] = image_labels
            if ignore is not None:
                out.ignore[i, :n] = ignore[i]
            out.valid[i, :n] = ~out.ignore[i, :n]
        return replace(out, any_ignore=bool(out.ignore.any()))

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "GroundTruth":
        """The same ground truth on another device."""
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in _TENSORS}
        return replace(self, **moved)

    def pin_memory(self) -> "GroundTruth":
        """The same ground truth in page-locked memory (called by torch's DataLoader)."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in _TENSORS})

    def tensors(self) -> list[Tensor]:
        """All tensors of it."""
        return [getattr(self, name) for name in _TENSORS]


_TENSORS = ("boxes_xyxy", "labels", "valid", "ignore")
