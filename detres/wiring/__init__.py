"""The wiring diagram: from a Config to networks, data sets and loaders. Modules never see config; this room does."""

from detres.wiring.checkpoints import model_from_checkpoint, predictor_from_checkpoint, refuse_named_code
from detres.wiring.datasets import (
    AnyDataset,
    build_dataset,
    build_detection_loader,
    build_eval_dataset,
    build_eval_loader,
    build_split,
    build_train_dataset,
    build_train_loader,
    build_transforms,
    data_root,
    describe_image_cache,
    is_held_out,
    own_paths,
    with_image_folder,
)
from detres.wiring.foreign import assumptions, class_names_of, implied_config
from detres.wiring.networks import build_backbone, build_detector, build_model, load_initial_weights, load_whole_model
from detres.wiring.test_time import build_system, for_inference, resizes_itself, with_test_time

__all__ = [
    "AnyDataset",
    "assumptions",
    "build_backbone",
    "build_dataset",
    "build_detection_loader",
    "build_detector",
    "build_eval_dataset",
    "build_eval_loader",
    "build_model",
    "build_split",
    "build_system",
    "build_train_dataset",
    "build_train_loader",
    "build_transforms",
    "class_names_of",
    "data_root",
    "describe_image_cache",
    "for_inference",
    "implied_config",
    "is_held_out",
    "load_initial_weights",
    "load_whole_model",
    "model_from_checkpoint",
    "own_paths",
    "predictor_from_checkpoint",
    "refuse_named_code",
    "resizes_itself",
    "with_image_folder",
    "with_test_time",
]
