"""Image classification: a backbone, global average pooling and one fully connected layer."""

from detres.classifier.classifier import Classifier

__all__ = ["Classifier"]
