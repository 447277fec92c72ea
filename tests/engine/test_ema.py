"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from detres.engine.ema import WeightAverage


def test_a_model_without_tensors():
    WeightAverage(nn.Identity(), 0.9).update(nn.Identity(), 1)


def test_the_average_starts_at_the_weights_and_trails_them():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.9, ramp=False)
    assert not average.module.training and not average.module.weight.requires_grad
    nn.init.constant_(model.weight, 2.0)
    average.update(model, 1)
    average.update(model, 2)
    assert average.module.weight.item() == pytest.approx(0.81 * 1 + 0.19 * 2)
    assert model.weight.item() == 2.0


def test_the_ramp_lets_early_steps_count_more():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, 0.999)
    nn.init.constant_(model.weight, 1.0)
    average.update(model, 1)
    assert average.module.weight.item() == pytest.approx(1 - 2 / 11)


def test_buffers_are_averaged_and_integers_copied():
    model = nn.BatchNorm2d(2)
    average = WeightAverage(model, 0.5, ramp=False)
    model(torch.randn(4, 2, 3, 3) + 5)
    average.update(model, 1)
    torch.testing.assert_close(average.module.running_mean, model.running_mean / 2)
    assert average.module.num_batches_tracked.item() == 1
