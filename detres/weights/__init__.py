"""Where weights come from, and how they get into a model: sources, whole models, backbones, class-named heads."""

from detres.weights.backbone import load_backbone
from detres.weights.load import load_weights
from detres.weights.report import LoadReport, WeightsError
from detres.weights.sources import LoadedWeights, read_state_dict

__all__ = ["LoadReport", "LoadedWeights", "WeightsError", "load_backbone", "load_weights", "read_state_dict"]
