"""Faster R-CNN: anchors, RPN, RoI heads, target assignment and losses."""

from detres.detector.faster_rcnn import FasterRCNN
from detres.detector.localizer import Localizer

__all__ = ["FasterRCNN", "Localizer"]
