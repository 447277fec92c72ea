"""detres: a ResNet, pretrained on classification, feeds a Faster R-CNN detector.

    detector = detres.load("runs/coco_r50/best.pt")
    detections = detector.predict("photo.jpg")
    detections.draw().save("found.jpg")
"""

from detres.api import Detector, load
from detres.backbones.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    wide_resnet50_2,
)
from detres.structures import Detections

__version__ = "0.1.0"
__all__ = [
    "Detections",
    "Detector",
    "ResNet",
    "load",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
]
