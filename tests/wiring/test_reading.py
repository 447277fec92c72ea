"""data.decode and data.cache: what they do to the loaders of training and evaluation."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detres.config import Config, ConfigError, load_config
from detres.wiring import build_eval_loader, build_train_dataset, build_train_loader, describe_image_cache

RUN = """
model: {type: classifier, backbone: {type: resnet, depth: 18}}
data:
  train: {type: image_folder, root: set}
  val: {type: image_folder, root: set}
  train_transforms: [{type: resize, height: 32, width: 32}]
  eval_transforms: [{type: resize, height: 32, width: 32}]
  workers: 0
train: {batch_size: 2, steps: 1, optimizer: {type: sgd, lr: 0.1}, schedule: {type: constant}}
eval: {metric: classification, batch_size: 2}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with two photographs of two classes, each many times as large as the transforms make them."""
    monkeypatch.setenv("DETRES_DATASETS", str(tmp_path))
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        noise = np.random.default_rng(ord(name)).integers(0, 256, (25, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((300, 250)).save(tmp_path / "set" / name / "1.jpg")
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path


def _pixels(config: Config, training: bool) -> torch.Tensor:
    dataset = build_train_dataset(config)
    if not training:
        (batch,) = build_eval_loader(config, dataset)
        return batch.images.pixels
    batches = list(islice(build_train_loader(config, dataset).stream(), 3))
    assert all(sorted(batch.image_ids) == ["a/1.jpg", "b/1.jpg"] for batch in batches)
    first = batches[0]
    return first.images.pixels[np.argsort(first.image_ids)]


def _config(folder: Path, *overrides: str) -> Config:
    return load_config(folder / "run.yaml", list(overrides)).config


def test_training_alone_decodes_a_part_unless_told_otherwise(folder: Path) -> None:
    whole = _pixels(_config(folder, "data.decode=full"), training=False)
    for overrides, training, is_whole in [
        ([], False, True),
        ([], True, False),
        (["data.decode=full"], True, True),
        (["data.decode=reduced"], True, False),
        (["data.decode=reduced"], False, False),
    ]:
        pixels = _pixels(_config(folder, *overrides), training)
        assert torch.equal(pixels, whole) == is_whole, (overrides, training)
        assert (pixels.int() - whole.int()).abs().float().mean() < 3


def test_the_cache_changes_no_bit_and_is_told_of(folder: Path) -> None:
    plain, cached = _config(folder), _config(folder, "data.cache.megabytes=1")
    assert torch.equal(_pixels(plain, training=True), _pixels(cached, training=True))
    dataset = build_train_dataset(plain)
    assert describe_image_cache(plain, dataset) is None
    assert describe_image_cache(cached, dataset) == "data.cache: 1 MiB for the decoded images of 2"


def test_the_cache_of_a_detection_set_tells_what_fits(coco_run: Config) -> None:
    assert describe_image_cache(coco_run, build_train_dataset(coco_run)) == (
        "data.cache: 1 MiB; about 1 of 3 images fit (3 MiB decoded)"
    )


@pytest.fixture
def coco_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A detector's configuration with three images of a mebibyte each, which nobody reads."""
    monkeypatch.setenv("DETRES_DATASETS", str(tmp_path))
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 512, "width": 680} for i in (1, 2, 3)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0} for i in (1, 2, 3)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "one"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    entry = "{type: coco, annotations: a.json, images: .}"
    overrides = [f"data.train={entry}", f"data.val={entry}", "data.cache={megabytes: 1}"]
    return load_config("coco_r50_torchvision", overrides).config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.decode=half", "data.decode.*half"),
        ("data.cache.megabytes=0", "data.cache.megabytes.*0"),
        ("data.prefetch=0", "data.prefetch.*0"),
        ("data.cache={gigabytes: 1}", "gigabytes"),
    ],
)
def test_wrong_settings(folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        _config(folder, override)
