"""The layers of a localizer above its trunk.

Shapes: N images, K classes, C hidden channels, h and w height and width of the trunk's map.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FIRST_PROBABILITY = 0.01


class LocalizerHead(nn.Module):
    """A 3x3 convolution, then two sibling 1x1 layers: A x K logits and A x K x 4 deltas per position.

    The channels of both are anchor-major: (anchor, class) and (anchor, class, coordinate). As they are 1x1, they are
    computed only where they are asked for: of a thousand regressors, those of a few classes and anchors.
    """

    def __init__(self, in_channels: int, num_anchors: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.num_anchors, self.num_classes = num_anchors, num_classes
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, num_anchors * num_classes, 1)
        self.bbox_pred = nn.Conv2d(channels, num_anchors * num_classes * 4, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(cast(Tensor, layer.bias))
        nn.init.constant_(cast(Tensor, self.cls_logits.bias), math.log(_FIRST_PROBABILITY / (1 - _FIRST_PROBABILITY)))

    def hidden(self, features: Tensor) -> Tensor:
        """What the sibling layers see at each position: (N, h w, C)."""
        return self.conv(features).relu_().flatten(2).transpose(1, 2)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., anchors of a cell, K) float32 at positions (..., C)."""
        weight, bias = self.cls_logits.weight.flatten(1), self.cls_logits.bias
        return F.linear(hidden, weight, bias).unflatten(-1, (self.num_anchors, self.num_classes)).float()

    def deltas(self, hidden: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
        """Deltas (..., 4) float32 at positions (..., C) of one anchor of the cell and one class each, both (...)."""
        weight = self.bbox_pred.weight.reshape(-1, 4, self.bbox_pred.in_channels)
        rows = anchors * self.num_classes + labels
        bias = cast(Tensor, self.bbox_pred.bias).reshape(-1, 4)[rows]
        return torch.einsum("...c,...dc->...d", hidden, weight[rows]).float() + bias.float()
