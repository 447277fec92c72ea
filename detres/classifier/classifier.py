"""Classifier: a backbone, global average pooling, one fully connected layer (He et al., 2016, section 3.3).

Shapes: N images, C channels, h and w height and width of the last feature map, K classes.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detres.backbones.interface import Backbone
from detres.structures import ImageBatch


class Classifier(nn.Module):
    """From images to one score per class. Parameters are named `backbone.*` and `fc.*`.

    backbone         its last feature map (the one of the largest stride) is pooled
    pixels           from an ImageBatch to normalised pixels (N, 3, H, W), for instance PixelNormalizer
    label_smoothing  share of the target that is spread over all classes (Szegedy et al., 2016, section 7)
    dropout          probability of dropping a pooled channel in training
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        pixels: nn.Module,
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"a classifier needs at least one class, got num_classes={num_classes}")
        self.pixels = pixels
        self.backbone = cast(nn.Module, backbone)
        self.feature_name, spec = list(backbone.feature_specs.items())[-1]
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(spec.channels, num_classes)
        self.label_smoothing = label_smoothing

    @property
    def num_classes(self) -> int:
        """K."""
        return self.fc.out_features

    def forward(self, images: ImageBatch, targets: Tensor) -> dict[str, Tensor]:
        """The training loss {"loss_cls": mean cross-entropy} for labels `targets` (N,) int64."""
        loss = F.cross_entropy(self.logits(images), targets, label_smoothing=self.label_smoothing)
        return {"loss_cls": loss}

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> Tensor:
        """Logits (N, K); call in eval mode."""
        return self.logits(images)

    def logits(self, images: ImageBatch) -> Tensor:
        """Logits (N, K), with gradients."""
        features = self.backbone(self.pixels(images))[self.feature_name]
        return self.fc(self.dropout(pool_inside(features, images)))


def pool_inside(features: Tensor, images: ImageBatch) -> Tensor:
    """The mean (N, C) of a feature map (N, C, h, w) over the cells that see the image, not over its padding.

    Without padding this is the plain average over all cells.
    """
    rows = _cells_inside(features.shape[-2], images.pixels.shape[-2], images.sizes_hw[:, 0])
    columns = _cells_inside(features.shape[-1], images.pixels.shape[-1], images.sizes_hw[:, 1])
    inside = (rows[:, :, None] & columns[:, None, :])[:, None].to(features.dtype)
    return (features * inside).sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1))


def _cells_inside(num_cells: int, padded: int, sizes: Tensor) -> Tensor:
    """Which of the cells along one side begin inside each image: (N, num_cells) bool. `sizes` is (N,) in pixels."""
    covered = (sizes * num_cells + padded - 1) // padded
    return torch.arange(num_cells, device=sizes.device) < covered[:, None]
