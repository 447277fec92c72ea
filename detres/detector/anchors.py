"""Anchors: the boxes of fixed sizes and shapes that the RPN starts from.

Shapes: A anchors of all levels, in the order level, y, x, anchor of the cell.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detres.structures.constants import constant


class AnchorGenerator(nn.Module):
    """Anchors of every cell of every feature level (Ren et al., 2015).

    sizes          per level, the square roots of the anchors' areas in pixels; one entry serves all levels
    aspect_ratios  height / width
    rounded        corners of the cell anchors rounded to whole pixels (torchvision)
    stride         "nominal" (detectron2) or "from_shape", padded size // feature size (torchvision)
    order          of a cell's anchors: "size_major" (detectron2) or "ratio_major" (torchvision)
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        *,
        rounded: bool = False,
        stride: str = "nominal",
        order: str = "size_major",
    ) -> None:
        super().__init__()
        if len({len(level) for level in sizes}) != 1:
            raise ValueError(f"every level needs the same number of anchor sizes, got {[list(s) for s in sizes]}")
        self.sizes, self.aspect_ratios = [list(level) for level in sizes], list(aspect_ratios)
        self.rounded, self.stride, self.order = rounded, stride, order

    @property
    def num_anchors_per_cell(self) -> int:
        """How many anchors stand on each cell of a feature map."""
        return len(self.sizes[0]) * len(self.aspect_ratios)

    def cell_anchors(self, level: int, device: torch.device | str = "cpu") -> Tensor:
        """The anchors of a cell at the origin: (anchors per cell, 4)."""
        sizes = self.sizes[level if len(self.sizes) > 1 else 0]
        pairs = [(size, ratio) for size in sizes for ratio in self.aspect_ratios]
        if self.order == "ratio_major":
            pairs = [(size, ratio) for ratio in self.aspect_ratios for size in sizes]
        corners: list[float] = []
        for size, ratio in pairs:
            width = size / math.sqrt(ratio)
            height = width * ratio
            corners += [-width / 2, -height / 2, width / 2, height / 2]
        anchors = constant(corners, torch.device(device)).view(-1, 4)
        return anchors.round() if self.rounded else anchors

    def forward(
        self,
        feature_sizes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        padded_hw: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> list[Tensor]:
        """Anchors (A_l, 4) of every level, in pixels of the padded images.

        Raises ValueError when the number of levels differs from the number of size lists.
        """
        if len(self.sizes) not in (1, len(feature_sizes)):
            raise ValueError(
                f"anchors.sizes has {len(self.sizes)} levels, but the network has {len(feature_sizes)} feature levels: "
                "give one list of sizes per level, or one for all"
            )
        levels = []
        for level, ((height, width), nominal) in enumerate(zip(feature_sizes, strides, strict=True)):
            step_y = step_x = nominal
            if self.stride == "from_shape":
                step_y, step_x = padded_hw[0] // height, padded_hw[1] // width
            y = torch.arange(height, device=device, dtype=torch.float32) * step_y
            x = torch.arange(width, device=device, dtype=torch.float32) * step_x
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            shift = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).reshape(-1, 1, 4)
            levels.append((shift + self.cell_anchors(level, device)).reshape(-1, 4))
        return levels
