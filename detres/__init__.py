"""detres: a ResNet, pretrained on classification, feeds a Faster R-CNN detector.

detector = detres.load("runs/coco_r50/best.pt")
detections = detector.predict("photo.jpg")
detections.draw().save("found.jpg")

classifier = detres.load("runs/imagenet_r50/best.pt")
classifier.predict("photo.jpg").top(5)
"""

from detres.api import Detector, ImageClassifier, ImageLocalizer, load
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
from detres.structures import Classification, Detections

__version__ = "0.1.0"
__all__ = [
    "Classification",
    "Detections",
    "Detector",
    "ImageClassifier",
    "ImageLocalizer",
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
