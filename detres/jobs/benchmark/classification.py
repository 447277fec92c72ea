"""Training a CIFAR ResNet compared: detres's own step against the same network in plain torch modules.

Random pictures: loading is not part of it. Shapes: N images of 32 x 32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detres.classifier import Classifier
from detres.config import load_config
from detres.jobs.benchmark.agreement import gradients, same_tensors, same_value
from detres.jobs.benchmark.conditions import OURS, Conditions
from detres.jobs.benchmark.contest import Contest
from detres.jobs.benchmark.plain_cifar import PlainCifarResNet
from detres.jobs.benchmark.timing import Side
from detres.jobs.benchmark.training import check_steps, describe, our_training, plain_step, their_training, timed_step
from detres.structures import Batch, ImageBatch
from detres.weights.torchvision_names import classifier_from_torchvision
from detres.wiring import build_model

MODEL = "CIFAR ResNet-20, random weights"
SIDE = 32
NUM_CLASSES = 10
_CONFIG = "paper/cifar10_resnet20.yaml"
_MEAN = 120.0  # of every pixel, in place of the mean image of a training set
_LOSS_TOLERANCE, _GRADIENT_TOLERANCE = 1e-5, 1e-3


def compare_classifiers(conditions: Conditions, batch_size: int) -> Contest:
    """Both sides, checked to compute the same loss and gradient. Raises DifferentWork."""
    conditions.progress(f"classify, {batch_size} x {SIDE} x {SIDE}, random: do both sides compute the same?")
    theirs, ours = make_networks(conditions.device)
    batch = make_batch(batch_size, conditions.device)
    same = check_same(theirs, ours, batch)
    unchanged, timed = plain_step(ours, conditions), timed_step(ours, conditions)
    same |= check_steps(unchanged, timed, batch)
    plain, new = (
        Side(our_training(step, lambda: batch), {"forward": [step.model]}, allocator, describe(step))
        for step, allocator in ((unchanged, conditions.allocator_of("plain")), (timed, conditions.allocator_of(OURS)))
    )
    step = their_training(theirs, lambda: {"loss": _their_loss(theirs, batch)}, conditions)
    settings = {"precision": conditions.their_precision, "mode": "eager", "memory format": "planes"}
    old = Side(step, {"forward": [theirs]}, conditions.allocator_of("torchvision"), settings)
    about = {"size_hw": [SIDE, SIDE], "batch_size": batch_size, "input": "random pictures", "same": same}
    return Contest({conditions.opponent: plain if conditions.against == OURS else old, OURS: new}, about, plain)


def make_networks(device: torch.device) -> tuple[PlainCifarResNet, Classifier]:
    """The plain network and ours, as the paper's configuration describes it, with the same random weights."""
    ours = build_model(load_config(_CONFIG).config, NUM_CLASSES)
    assert isinstance(ours, Classifier)
    mean_image: Any = ours.pixels.get_buffer("mean_image")
    mean_image.fill_(_MEAN)
    theirs = PlainCifarResNet(20, NUM_CLASSES)
    ours.load_state_dict({**classifier_from_torchvision(theirs.state_dict()), "pixels.mean_image": mean_image})
    return theirs.to(device).train(), ours.to(device).train()


def make_batch(batch_size: int, device: torch.device) -> Batch:
    """`batch_size` random pictures (N, 3, 32, 32) uint8 and labels (N,)."""
    generator = torch.Generator().manual_seed(11)
    pixels = torch.randint(256, (batch_size, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(NUM_CLASSES, (batch_size,), generator=generator)
    images = ImageBatch.from_images(list(pixels), size_divisibility=1)
    return Batch(images, labels, list(range(batch_size)), ["random"] * batch_size).to(device)


def check_same(theirs: PlainCifarResNet, ours: Classifier, batch: Batch) -> dict[str, Any]:
    """The loss to 1e-5 and its gradient to 1e-3. Raises DifferentWork."""
    assert isinstance(batch.targets, Tensor)
    expected = _their_loss(theirs, batch)
    got = ours(batch.images, batch.targets)["loss_cls"]
    same: dict[str, Any] = {"loss": same_value("loss", float(expected.detach()), float(got.detach()), _LOSS_TOLERANCE)}
    expected.backward()
    got.backward()
    in_our_names = classifier_from_torchvision(gradients(theirs))
    same["gradient"] = same_tensors("gradient", in_our_names, gradients(ours), _GRADIENT_TOLERANCE)
    theirs.zero_grad()
    ours.zero_grad()
    return same


def _their_loss(model: PlainCifarResNet, batch: Batch) -> Tensor:
    assert isinstance(batch.targets, Tensor)
    return F.cross_entropy(model(batch.images.pixels.float() - _MEAN), batch.targets)
