"""Classifier: a backbone, global average pooling, one fully connected layer (He et al., 2016, section 3.3).

Shapes: N images, C channels, h and w height and width of the last feature map, K classes.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detres.backbones.interface import Backbone
from detres.classifier.mixing import Mixing
from detres.layers.inference import OptimizableForInference
from detres.structures import ImageBatch


class Classifier(OptimizableForInference):
    """From images to one score per class. Parameters are named `backbone.*` and `fc.*`.

    backbone         its last feature map (the one of the largest stride) is pooled
    pixels           from an ImageBatch to normalised pixels (N, 3, H, W), for instance PixelNormalizer
    head             from that map and the ImageBatch to (N, head.out_channels), for instance VGGHead, as `head.*`;
                     None: global average pooling
    label_smoothing  share of the target that is spread over all classes (Szegedy et al., 2016, section 7)
    dropout          probability of dropping an input of the last layer in training
    mixing           mixes the images of a training batch with each other; None: they stay as they are
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        pixels: nn.Module,
        head: nn.Module | None = None,
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"a classifier needs at least one class, got num_classes={num_classes}")
        self.pixels = pixels
        self.backbone = cast(nn.Module, backbone)
        self.feature_name, spec = list(backbone.feature_specs.items())[-1]
        self.head = head
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(spec.channels if head is None else cast(int, head.out_channels), num_classes)
        self.label_smoothing = label_smoothing
        self.mixing = mixing

    @property
    def num_classes(self) -> int:
        """K."""
        return self.fc.out_features

    def forward(self, images: ImageBatch, targets: Tensor) -> dict[str, Tensor]:
        """For labels `targets` (N,) int64: {"loss_cls": mean cross-entropy, "error_top1": share of wrong ones}.

        A mixed image has the loss of both its labels in their shares; to be right is to name the larger one's.
        """
        self.check_trainable()
        if self.mixing is None or not self.training:
            logits = self.logits(images)
            loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
            return {"loss_cls": loss, "error_top1": _error(logits, targets)}
        mixed = self.mixing(images, targets)
        logits = self.logits(mixed.images)
        own, partners = (
            F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")
            for labels in (targets, mixed.partners)
        )
        loss = (mixed.share * own + (1.0 - mixed.share) * partners).mean()
        return {"loss_cls": loss, "error_top1": _error(logits, targets.where(mixed.share >= 0.5, mixed.partners))}

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> Tensor:
        """Logits (N, K) float32; call in eval mode."""
        return self.logits(images).float()

    def logits(self, images: ImageBatch) -> Tensor:
        """Logits (N, K), with gradients."""
        features = self.features(images)[self.feature_name]
        hidden = pool_inside(features, images) if self.head is None else self.head(features, images)
        return self.fc(self.dropout(hidden))


def _error(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of the images whose best class is not their label."""
    return (logits.detach().argmax(dim=1) != labels).float().mean()


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
    return torch.arange(num_cells, device=sizes.device) < num_cells_inside(num_cells, padded, sizes)[:, None]


def num_cells_inside(num_cells: int, padded: int, sizes: Tensor) -> Tensor:
    """How many of the cells along one side begin inside each image: (N,). `sizes` is (N,) in pixels."""
    return (sizes * num_cells + padded - 1) // padded
