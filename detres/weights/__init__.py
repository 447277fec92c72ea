"""Where weights come from, and how they get into a model: sources, whole models, backbones, class-named heads."""

from detres.weights.backbone import load_backbone
from detres.weights.load import load_weights
from detres.weights.report import LoadReport, WeightsError
from detres.weights.sources import LoadedWeights, read_state_dict
from detres.weights.torchvision_names import classifier_from_torchvision, classifier_to_torchvision

__all__ = [
    "LoadReport",
    "LoadedWeights",
    "WeightsError",
    "classifier_from_torchvision",
    "classifier_to_torchvision",
    "load_backbone",
    "load_weights",
    "read_state_dict",
]
