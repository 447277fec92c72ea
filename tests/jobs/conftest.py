"""A tiny data set of digits, and one whole run on it: pretrained classifier, detector from its backbone."""

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from detres.cli import main
from detres.data.digits import write_digits

PRETRAIN = """\
model: {type: classifier, backbone: {type: resnet, depth: 18, out_features: [c3]}}
data:
  train: {type: image_folder, root: digits/classify/train}
  val: {type: image_folder, root: digits/classify/val}
  workers: 0
train:
  batch_size: 8
  steps: 2
  optimizer: {type: sgd, lr: 0.01}
  schedule: {type: constant}
eval: {metric: classification, batch_size: 10}
device: cpu
output: {RUNS}/{name}
"""
DETECTOR = """\
model:
  type: faster_rcnn
  backbone: {type: resnet, depth: 18, out_features: [c2, c3], weights: {RUNS}/pretrain/best.pt}
  neck: {channels: 16, top: none}
  anchors: {sizes: [[16], [40]], aspect_ratios: [1.0]}
  rpn: {post_nms_top_n_train: 50, post_nms_top_n_test: 20}
  roi_heads:
    box_head: {type: fc, channels: 32}
    sampling: {positive_iou: 0.5, negative_iou: 0.5, batch_size: 16, positive_fraction: 0.25}
    score_threshold: 0.0
data:
  train: {type: coco, annotations: digits/annotations/instances_train.json, images: digits/train}
  val: {type: coco, annotations: digits/annotations/instances_test.json, images: digits/test}
  train_transforms: [{type: horizontal_flip}]
  workers: 0
train:
  batch_size: 4
  steps: 3
  optimizer: {type: sgd, lr: 0.005}
  schedule: {type: constant}
  warmup: {steps: 2}
  ema: {decay: 0.9}
  log_every: 1
  eval_every: 2
eval: {batch_size: 4}
device: cpu
output: {RUNS}/{name}
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left on the screen."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Workshop:
    """The folder in which the runs of this session lie, with the configurations in it."""

    data: Path
    runs: Path
    pretrain_config: Path
    config: Path
    pretrained: Outcome
    trained: Outcome


def run_detres(*arguments: object) -> Outcome:
    """`detres ...` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Everything made once for all tests of the jobs; they must leave it as it is."""
    folder = tmp_path_factory.mktemp("workshop")
    data, runs = folder / "data", folder / "runs"
    write_digits(data, num_train=9, num_test=5, num_crops=20, image_size=80, crop_size=24)
    configs = {"pretrain": PRETRAIN, "tiny": DETECTOR}
    for name, text in configs.items():
        (folder / f"{name}.yaml").write_text(text.replace("{RUNS}", str(runs)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETRES_DATASETS", str(data))
        outcomes = [
            run_detres(command, "--config", folder / f"{name}.yaml")
            for command, name in (("pretrain", "pretrain"), ("train", "tiny"))
        ]
    yield Workshop(data, runs, folder / "pretrain.yaml", folder / "tiny.yaml", *outcomes)


@pytest.fixture
def detres(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`detres ...` on the workshop's data."""
    monkeypatch.setenv("DETRES_DATASETS", str(workshop.data))
    return run_detres
