"""Image classification: a backbone, global average pooling and one fully connected layer."""

from detres.classifier.classifier import Classifier
from detres.classifier.mixing import Mixing
from detres.classifier.protocols import Ensemble, TenCrop, WholeImage

__all__ = ["Classifier", "Ensemble", "Mixing", "TenCrop", "WholeImage"]
