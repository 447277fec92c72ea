"""A whole training step leaves the device alone: its host looks at no value and no shape that depends on one.

What still waits, and is let through here by name:
- NMS (detres.layers.nms._survivors): once a step for every 30,000 boxes of the batch (and for hard examples), because
  torchvision's kernel gives as many indices as boxes survive;
- Mixing._check_sizes: the first batch only, on an accelerator;
- the losses giou, diou and ciou, which are torchvision's: they index by masks (not tested here);
- LossMonitor.check: when a line of the log is due, all steps since the last in one copy.
Regions are pooled and pixels normalised as on a GPU: RoIPooler and PixelNormalizer have other ways on CPUs. The first
step makes the constants (detres.structures.constants), which copies them; it is not watched.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

import detres.layers.nms
import detres.layers.pixels
from detres.backbones import ResNet
from detres.classifier import Classifier
from detres.classifier.mixing import Mixing
from detres.engine.loss_monitor import LossMonitor
from detres.engine.optimizer import build_optimizer
from detres.engine.records import TrainerSettings
from detres.engine.run_directory import RunDirectory
from detres.engine.schedule import build_schedule
from detres.engine.trainer import Trainer
from detres.layers.pixels import PixelNormalizer
from detres.layers.roi_pool import RoIPooler
from detres.structures import Batch, GroundTruth, ImageBatch
from tests.detector.small import build
from tests.waiting import Waits

SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {"clip_grad_norm": 1.0, "ema_decay": 0.9, "channels_last": "auto"},
    "bfloat16, accumulation": {"precision": "bfloat16", "accumulate": 2},
}
DETECTORS: dict[str, tuple[str, list[str]]] = {
    "fpn": ("fpn", []),
    "fpn, options": ("fpn", ["model.rpn.straddle_threshold=0", "model.rpn.normalize_by=sampled",
                             "model.roi_heads.box_loss=smooth_l1"]),
    "c4, hard examples": ("c4", ["model.roi_heads.sampling.ohem=true"]),
}  # fmt: skip


class _Repeated:
    """The same batch for ever."""

    steps_per_epoch = 4.0

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def stream(self, start_sample: int) -> Any:
        while True:
            yield self.batch


def _run(model: torch.nn.Module, batch: Batch, folder: Any, monkeypatch: pytest.MonkeyPatch, options: Any) -> list[str]:
    """What waits in the second step and the third, which is logged."""
    waits = Waits()
    monkeypatch.setattr(detres.layers.nms, "_survivors", waits.allowed(detres.layers.nms._survivors))
    monkeypatch.setattr(RoIPooler, "forward", lambda self, maps, boxes: self.pool_by_operator(maps, *self.place(boxes)))
    monkeypatch.setattr(detres.layers.pixels, "_may_have_others", lambda inside_rows: True)
    monkeypatch.setattr(Mixing, "_check_sizes", waits.allowed(Mixing._check_sizes))
    monkeypatch.setattr(LossMonitor, "check", waits.allowed(LossMonitor.check))
    settings = TrainerSettings(steps=3, log_every=3, **options)
    trainer = Trainer(
        model,
        build_optimizer(model, type="sgd", lr=1e-4, weight_decay=1e-4),
        build_schedule(type="constant", steps=3),
        _Repeated(batch),
        RunDirectory(folder),
        settings,
        header={"kind": "faster_rcnn", "config": {}, "class_names": []},
    )
    step = trainer._train_step
    trainer.device = torch.device("meta")  # so that it takes the device for one that computes by itself

    def watched() -> None:
        with waits.watching() if trainer.progress.step else nullcontext():
            step()

    monkeypatch.setattr(trainer, "_train_step", watched)
    trainer.run()
    return waits.found


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("form", DETECTORS.values(), ids=DETECTORS)
def test_a_step_of_a_detector_does_not_wait(form, options, tmp_path, monkeypatch) -> None:
    model = build(form[0], *form[1])
    boxes = [torch.tensor([[4.0, 4, 40, 44], [10, 20, 60, 60]]), torch.tensor([[0.0, 0, 30, 30]])]
    labels, ignore = [torch.tensor([0, 2]), torch.tensor([1])], [torch.tensor([False, True]), torch.tensor([False])]
    images = ImageBatch.from_images([torch.rand(3, 64, 64) * 255, torch.rand(3, 60, 50) * 255])
    batch = Batch(images, GroundTruth.from_lists(boxes, labels, ignore), [1, 2], ["a.jpg", "b.jpg"])
    assert _run(model, batch, tmp_path / "run", monkeypatch, options) == []


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_step_of_a_classifier_does_not_wait(options, tmp_path, monkeypatch) -> None:
    model = Classifier(
        ResNet(18, out_features=["c2"]), 3, pixels=PixelNormalizer(), label_smoothing=0.1, mixing=Mixing()
    )
    batch = Batch(ImageBatch.from_images([torch.rand(3, 32, 32) * 255] * 2), torch.tensor([0, 1]), [1, 2], ["a", "b"])
    assert _run(model, batch, tmp_path / "run", monkeypatch, options) == []


def test_the_watch_notices() -> None:
    """What would wait on a GPU, in the forward and in the backward pass; but not work on the device."""
    waits, x = Waits(), torch.arange(4.0, requires_grad=True)

    class Looks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * float(gradients[0].sum().item())

    cases = [
        lambda: x.sum().item(), lambda: x.tolist(), lambda: bool(x.sum() > 0), lambda: x.nonzero(), lambda: x[x > 1],
        lambda: x.detach().masked_select(x > 1), lambda: x.unique(), lambda: x.long().bincount(),
        lambda: torch.tensor([1.0]) + x, lambda: Looks.apply(x).sum().backward(),
    ]  # fmt: skip
    for number, case in enumerate(cases):
        waits.found = []
        with waits.watching():
            case()
        assert waits.found, number
    waits.found = []
    with waits.watching():
        (torch.where(x > 1, x, 0).sort().values[:2] + x.new_zeros(2)).sum().backward()
    assert waits.found == []
