"""Box heads: from pooled regions to feature vectors, and from those to class logits and box deltas.

Shapes: M regions of all images, C channels, S the pooled size, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detres.layers.flat_linear import FlatLinear
from detres.layers.norm import ConvNorm, conv_norm_relu, make_norm


class FCHead(nn.Module):
    """Fully connected layers with ReLU ("2-FC" when `num_fcs` is 2); parameters fc6, fc7, ...

    dropout  probability of dropping a hidden value in training (VGG's layers in Fast R-CNN: 0.5)
    """

    def __init__(
        self, in_channels: int, pool_size: int, *, num_fcs: int = 2, channels: int = 1024, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        for i in range(num_fcs):
            layer = nn.Linear(channels, channels) if i else FlatLinear(in_channels, pool_size, channels)
            self.add_module(f"fc{6 + i}", layer)
        self.out_channels = channels

    def forward(self, regions: Tensor) -> Tensor:
        """(M, C, S, S) -> (M, channels)."""
        hidden = regions
        for layer in self.children():
            hidden = layer(hidden).relu_()
            if self.dropout:
                hidden = F.dropout(hidden, self.dropout, self.training)
        return hidden


class _ConvNormReLU(ConvNorm):
    """A 3x3 convolution ("0"), its norm ("1", if any) and ReLU."""

    def __init__(self, in_channels: int, channels: int, norm: str) -> None:
        conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=norm == "none")
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        super().__init__(conv, make_norm(norm, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, S, S) -> (M, channels, S, S)."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        return conv_norm_relu(x, conv, norm)


class ConvFCHead(nn.Sequential):
    """3x3 convolutions with a norm, then one fully connected layer ("4conv1fc"); parameters as torchvision's,

    whose flattening has the place of the nn.Identity here.
    """

    def __init__(
        self,
        in_channels: int,
        pool_size: int,
        *,
        num_convs: int = 4,
        conv_channels: int = 256,
        channels: int = 1024,
        norm: str = "batch",
    ) -> None:
        layers: list[nn.Module] = [
            _ConvNormReLU(in_channels if i == 0 else conv_channels, conv_channels, norm) for i in range(num_convs)
        ]
        layers += [nn.Identity(), FlatLinear(conv_channels, pool_size, channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)
        self.out_channels = channels


class Conv5Head(nn.Module):
    """The backbone's conv5_x on every region, then the mean over its cells (C4; He et al., 2016, appendix A)."""

    def __init__(self, conv5: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.layer4 = conv5
        self.out_channels = out_channels

    def forward(self, regions: Tensor) -> Tensor:
        """(M, C, S, S) -> (M, out_channels)."""
        return self.layer4(regions).mean(dim=(2, 3))


class BoxPredictor(nn.Module):
    """Two sibling layers: class logits with one for the background, and four deltas per class or for all classes.

    background: "last" (detectron2, mmdetection: K classes, then the background, which has no deltas) or "first"
    (torchvision: the background is row 0 and has four unused deltas).
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, class_agnostic: bool = False, background: str = "last"
    ) -> None:
        super().__init__()
        if background not in ("last", "first"):
            raise ValueError(f"background must be 'last' or 'first', got {background!r}")
        self.num_classes, self.class_agnostic, self.background = num_classes, class_agnostic, background
        box_rows = 1 if class_agnostic else num_classes + (background == "first")
        self.cls_score = nn.Linear(in_channels, num_classes + 1)
        self.bbox_pred = nn.Linear(in_channels, 4 * box_rows)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (M, K + 1) in the layer's own order, deltas (M, box rows, 4); float32."""
        logits, deltas = self.cls_score(hidden), self.bbox_pred(hidden)
        return logits.float(), deltas.float().unflatten(1, (-1, 4))

    def class_row(self, labels: Tensor) -> Tensor:
        """The logit row of each label; label K is the background."""
        if self.background == "last":
            return labels
        return (labels + 1) % (self.num_classes + 1)

    def box_row(self, labels: Tensor) -> Tensor:
        """The row of deltas of each label 0 ... K-1."""
        if self.class_agnostic:
            return labels * 0
        return labels + (self.background == "first")

    def deltas_of(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """Of deltas (M, box rows, 4) the row of each label (M,) 0 ... K-1: (M, 4)."""
        return deltas[torch.arange(len(deltas), device=deltas.device), self.box_row(labels)]

    def class_deltas(self, deltas: Tensor) -> Tensor:
        """Deltas (M, K, 4) of the classes 0 ... K-1, or (M, 1, 4) for all of them."""
        has_unused_row = self.background == "first" and not self.class_agnostic
        return deltas[:, 1:] if has_unused_row else deltas

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (M, K) without the background's."""
        probabilities = logits.softmax(dim=-1)
        return probabilities[:, 1:] if self.background == "first" else probabilities[:, :-1]
