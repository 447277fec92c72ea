"""Classification sets by their settings: paths below the data root, and labels that follow the training set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detres.config import Config, ConfigError, load_config
from detres.data.annotations import DatasetError
from detres.wiring import build_dataset, build_eval_dataset, build_eval_loader, build_train_dataset

RUN = """
model: {type: classifier, backbone: {type: resnet, depth: 18}, pixels: {mean: [0, 0, 0], std: [1, 1, 1]}}
data:
  train: {type: image_folder, root: set/train}
  val: {type: flat_images, root: set/val, labels: set/val.csv}
  eval_transforms: [{type: resize, height: 8, width: 8}]
  workers: 0
train: {batch_size: 2, steps: 1, optimizer: {type: sgd, lr: 0.1}, schedule: {type: constant}}
eval: {metric: classification, batch_size: 2}
"""


class OwnSet:
    """A data set of the user's own class with three classes in an order of its own."""

    class_names = ("a", "c", "b")


def config(tmp_path: Path, *overrides: str) -> Config:
    (tmp_path / "run.yaml").write_text(RUN)
    return load_config(str(tmp_path / "run.yaml"), list(overrides)).config


@pytest.fixture
def flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Training images by folder (a, b, c), two flat validation images of c and a."""
    monkeypatch.setenv("DETRES_DATASETS", str(tmp_path))
    for position, name in enumerate(("train/a/1", "train/b/1", "train/c/images/1", "val/x", "val/y")):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), position, np.uint8)).save(path)
    (tmp_path / "set" / "val.csv").write_text("y,a\nx,c\n")
    return tmp_path


def test_flat_validation_images_get_the_labels_of_training(flat: Path) -> None:
    run = config(flat)
    names = build_train_dataset(run).class_names
    assert names == ("a", "b", "c")
    val = build_eval_dataset(run, names)
    (batch,) = list(build_eval_loader(run, val))
    assert isinstance(batch.targets, torch.Tensor) and batch.targets.tolist() == [0, 2]
    assert list(batch.image_ids) == ["y.png", "x.png"] and batch.images.pixels[:, 0, 0, 0].tolist() == [4, 3]


def test_classes_that_training_does_not_know(flat: Path) -> None:
    (flat / "set" / "val.csv").write_text("y,a\nx,z\n")
    with pytest.raises(DatasetError, match="val.csv, line 2: class 'z' of x is not among"):
        build_eval_dataset(config(flat), ("a", "b", "c"))


def test_the_file_of_classes_is_below_the_data_root(flat: Path) -> None:
    (flat / "set" / "classes.txt").write_text("c\na\n")
    run = config(flat, "data.train={type: flat_images, root: set/val, labels: set/val.csv, classes: set/classes.txt}")
    assert build_train_dataset(run).class_names == ("c", "a")
    assert build_dataset(run.data.val).class_names == ("a", "c")


def test_a_set_of_ones_own_with_other_classes(flat: Path) -> None:
    run = config(flat, f"data.val={{type: '{__name__}:OwnSet'}}")
    with pytest.raises(ValueError, match=r"data.val: its classes are a, c, b .*, expected .*: a, b, c"):
        build_eval_dataset(run, ("a", "b", "c"))


def test_flat_images_without_their_list(flat: Path) -> None:
    with pytest.raises(ConfigError, match="data.test.labels: missing"):
        config(flat, "data.test={type: flat_images, root: set/val}")
    with pytest.raises(DatasetError, match="nowhere.csv: no such file"):
        build_eval_dataset(config(flat, "data.val.labels=nowhere.csv"), ("a", "b", "c"))
