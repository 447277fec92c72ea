"""The wiring diagram: from a Config to networks, data sets and loaders. Modules never see config; this room does."""

from detres.wiring.checkpoints import model_from_checkpoint, predictor_from_checkpoint, refuse_named_code
from detres.wiring.datasets import (
    AnyDataset,
    build_dataset,
    build_eval_dataset,
    build_eval_loader,
    build_train_dataset,
    build_train_loader,
    build_transforms,
    data_root,
)
from detres.wiring.foreign import assumptions, class_names_of, implied_config
from detres.wiring.networks import build_backbone, build_detector, build_model, load_initial_weights, load_whole_model

__all__ = [
    "AnyDataset",
    "assumptions",
    "build_backbone",
    "build_dataset",
    "build_detector",
    "build_eval_dataset",
    "build_eval_loader",
    "build_model",
    "build_train_dataset",
    "build_train_loader",
    "build_transforms",
    "class_names_of",
    "data_root",
    "implied_config",
    "load_initial_weights",
    "load_whole_model",
    "model_from_checkpoint",
    "predictor_from_checkpoint",
    "refuse_named_code",
]
