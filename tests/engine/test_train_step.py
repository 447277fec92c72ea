"""The gradient of a step in shares, in double precision: there rounding hides nothing."""

from dataclasses import replace

import torch

from detres.backbones import ResNet
from detres.classifier import Classifier
from detres.classifier.mixing import Mixing
from detres.engine.optimizer import build_optimizer
from detres.engine.records import TrainerSettings
from detres.engine.train_step import TrainStep
from detres.layers.pixels import PixelNormalizer
from detres.structures import Batch, ImageBatch
from detres.structures.processes import ALONE
from tests.together import run_together


def _batch(numbers: list[int]) -> Batch:
    """Images that depend on their number alone."""
    pixels = [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(n)) * 255 for n in numbers]
    images = ImageBatch.from_images(pixels, sampling_seeds=[n * 7919 for n in numbers])
    return Batch(images, torch.tensor([n % 3 for n in numbers]), list(numbers), [str(n) for n in numbers])


def _step(processes, parts, norm="sync_batch", mixing=True, **settings):
    """Gradients, running statistics, losses and norm of one step on micro-batches `parts` (lists of image numbers)."""
    torch.manual_seed(0)
    backbone = ResNet(18, norm=norm, out_features=["c3"])
    model = Classifier(backbone, 3, pixels=PixelNormalizer(), label_smoothing=0.1).double()
    model.mixing = Mixing() if mixing else None
    step = TrainStep(
        model,
        build_optimizer(model, type="sgd", lr=0.1, weight_decay=0.0),
        TrainerSettings(steps=1, accumulate=len(parts), clip_grad_norm=1.0, **settings),
        processes=processes,
    )
    losses, total = step.gradients(1, [_batch(_share(part, processes)) for part in parts])
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return gradients, dict(model.named_buffers()), losses, total


def _share(part, processes):
    size = len(part) // processes.world_size
    return part[processes.rank * size :][:size]


def _assert_same(one, other, **close):
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], **close)


def test_two_and_three_processes_have_the_gradient_of_one():
    parts = [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    alone = _step(ALONE, parts)
    assert all(gradient.abs().sum() > 0 for gradient in alone[0].values())
    for count in (2, 3):
        for gradients, buffers, losses, total in run_together(count, lambda processes: _step(processes, parts)):
            _assert_same(alone[:2], (gradients, buffers), rtol=1e-9, atol=1e-12)
            assert len(losses) == 2 * count
            means = [sum(part["loss_cls"] for part in losses[i * count :][:count]) / count for i in range(2)]
            torch.testing.assert_close(torch.stack(means), torch.stack([part["loss_cls"].float() for part in alone[2]]))
            torch.testing.assert_close(total, alone[3])


def test_shares_for_themselves_have_the_gradient_of_as_many_parts():
    settings = {"norm": "frozen_batch", "across_processes": "parts"}
    alone = _step(ALONE, [[0, 1], [2, 3], [4, 5], [6, 7]], norm="frozen_batch")
    first, second = run_together(2, lambda processes: _step(processes, [[0, 1, 2, 3], [4, 5, 6, 7]], **settings))
    for found in (first, second):
        _assert_same(alone[:2], found[:2], rtol=1e-9, atol=1e-12)
        assert [part["loss_cls"].item() for part in found[2]] == [part["loss_cls"].float().item() for part in alone[2]]


def test_norms_that_see_their_share_alone_have_one_mean_statistic():
    first, second = run_together(2, lambda processes: _step(processes, [[0, 1, 2, 3]], norm="batch", mixing=False))
    _assert_same(first[:2], second[:2], rtol=0, atol=0)
    apart = [_step(ALONE, [numbers], norm="batch", mixing=False)[1] for numbers in ([0, 1], [2, 3])]
    name = "backbone.bn1.running_mean"
    torch.testing.assert_close(first[1][name], (apart[0][name] + apart[1][name]) / 2)


def test_dropout_differs_between_processes_and_repeats_in_each():
    def mask(processes):
        drawn = []
        for _ in range(2):
            torch.manual_seed(99)
            _step(processes, [[0, 1]], norm="frozen_batch")
            drawn.append(torch.rand(1).item())
        return drawn

    first, second = run_together(2, mask)
    assert first[0] == first[1] and second[0] == second[1] and first[0] != second[0]
    assert replace(TrainerSettings(steps=1)).across_processes == "whole"
