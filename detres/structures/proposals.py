"""Proposals: the regions that the RPN hands to the RoI heads, padded to one length.

Shapes: N images, R regions.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Proposals:
    """Class-agnostic regions by decreasing objectness.

    boxes_xyxy  (N, R, 4) in pixels of the resized images; zeros in the padding
    logits      (N, R) objectness before the sigmoid; -inf in the padding
    valid       (N, R) bool, false in the padding
    """

    boxes_xyxy: Tensor
    logits: Tensor
    valid: Tensor

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def trimmed(self) -> "Proposals":
        """Without the places that all images fill up; one at least stays. Waits for the device."""
        most = max(1, int(self.valid.sum(dim=1).amax())) if len(self) else 0
        return Proposals(self.boxes_xyxy[:, :most], self.logits[:, :most], self.valid[:, :most])
