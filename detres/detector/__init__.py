"""Faster R-CNN: anchors, RPN, RoI heads, target assignment and losses."""

from detres.detector.faster_rcnn import FasterRCNN

__all__ = ["FasterRCNN"]
