"""Faster R-CNN (Ren et al., 2015) on any backbone: with FPN, on C4 (He et al., 2016) or on a dilated C5.

Shapes: N images, H and W padded height and width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from detres.detector.roi_heads import RoIHeads
from detres.detector.rpn import RPN
from detres.layers.inference import OptimizableForInference
from detres.layers.pixels import PixelNormalizer
from detres.structures import Detections, GroundTruth, ImageBatch


class FasterRCNN(OptimizableForInference):
    """Normalised pixels -> features -> proposals -> detections.

    forward gives the losses of training, predict the detections; neither resizes anything. Parameter names are those
    of torchvision's FasterRCNN.
    """

    def __init__(self, pixels: PixelNormalizer, backbone: nn.Module, rpn: RPN, roi_heads: RoIHeads) -> None:
        super().__init__()
        self.pixels, self.backbone, self.rpn, self.roi_heads = pixels, backbone, rpn, roi_heads

    @property
    def num_classes(self) -> int:
        """How many classes there are, without the background."""
        return self.roi_heads.box_predictor.num_classes

    def forward(self, images: ImageBatch, targets: GroundTruth) -> dict[str, Tensor]:
        """The four losses, scalars: loss_rpn_objectness, loss_rpn_box, loss_classifier, loss_box.

        A cascade has the last two for each stage: loss_classifier_1, loss_box_1, ...
        """
        self.check_trainable()
        features = self.features(images)
        proposals, rpn_losses = self.rpn(images, features, targets)
        return {**rpn_losses, **self.roi_heads.losses(images, features, proposals, targets)}

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> list[Detections]:
        """One Detections per image, in pixels of the resized image (ImageBatch.to_original maps them back)."""
        features = self.features(images)
        proposals, _ = self.rpn(images, features)
        return self.roi_heads.detect(images, features, proposals.trimmed())

    def compilable(self) -> Iterator[nn.Module]:
        """Backbone, RPN head and box heads."""
        stages = [stage for stage in self.roi_heads.modules() if isinstance(stage, RoIHeads)]
        yield from (self.backbone, self.rpn.head, *(stage.box_head for stage in stages))
