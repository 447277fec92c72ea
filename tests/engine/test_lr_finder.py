"""The learning-rate finder, on losses whose course is known."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from detres.engine.lr_curve import draw_sweep
from detres.engine.lr_finder import Sweep, exponential_rates, sweep_learning_rates
from detres.engine.optimizer import build_optimizer
from detres.engine.records import TrainerSettings
from detres.engine.train_step import TrainStep
from detres.structures import Batch, ImageBatch

CURVATURE = 3.0


class Parabola(nn.Module):
    """loss = curvature / 2 * weight^2, plus `poison` from step `bad_from` on: NaN, for instance."""

    def __init__(self, bad_from: int = 10**9, poison: float = math.nan) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.bad_from, self.poison, self.calls = bad_from, poison, 0

    def forward(self, images: ImageBatch, targets: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        loss = CURVATURE / 2 * self.weight.square().sum()
        if self.calls >= self.bad_from:
            loss = loss + self.poison
        return {"loss_half": loss / 2, "loss_other_half": loss / 2, "error_top1": loss.detach() * 100}


def stream() -> Iterator[Batch]:
    images = ImageBatch.from_images([torch.zeros(3, 2, 2)], size_divisibility=1)
    while True:
        yield Batch(images, torch.zeros(1, dtype=torch.int64), [0], ["0.jpg"])


def sweep(model: nn.Module, rates: list[float], lr: float = 1.0, accumulate: int = 1, **options: object) -> Sweep:
    optimizer = build_optimizer(model, type="sgd", lr=lr, weight_decay=0.0, momentum=0.0)
    step = TrainStep(model, optimizer, TrainerSettings(steps=len(rates), accumulate=accumulate))
    return sweep_learning_rates(step, stream(), rates, **options)


@pytest.mark.parametrize("losses", [(), (1.0,), (1.0, 1.0, 1.0)])
def test_too_little_to_suggest_anything(losses, tmp_path):
    found = Sweep(tuple(0.1 * (i + 1) for i in range(len(losses))), losses, 100, "it ended")
    assert found.lowest() is None and found.steepest() is None and found.is_noisy()
    assert found.smoothed == losses
    assert draw_sweep(found, {}, tmp_path / "a.png", title="$x", xlabel="rate").stat().st_size > 1000


def test_rates_rise_by_one_factor():
    assert exponential_rates(1e-3, 1e6, 10) == pytest.approx([10.0**power for power in range(-3, 7)])
    for wrong in ((0, 1, 100), (1, 1, 100), (1, 0.1, 100), (1e-6, math.inf, 100), (math.nan, 1.0, 100)):
        with pytest.raises(ValueError, match="expected two numbers above 0, the smaller one first"):
            exponential_rates(*wrong)
    with pytest.raises(ValueError, match="got 9, expected at least 10"):
        exponential_rates(1e-6, 1.0, 9)


def test_smoothing_keeps_lines_and_shifts_nothing():
    line = Sweep(tuple(range(1, 21)), tuple(float(i) for i in range(20)), 40, "")
    assert line.reach == 2 and line.smoothed == pytest.approx(line.losses)
    peak = Sweep((1.0,) * 7, (0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0), 40, "")
    assert peak.smoothed == pytest.approx((0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0))


def test_the_losses_are_those_of_gradient_descent():
    rates = exponential_rates(1e-3, 0.5, 20)
    expected, weight = [], 1.0
    for rate in rates:
        expected.append(CURVATURE / 2 * weight**2)
        weight -= rate * CURVATURE * weight
    found = sweep(Parabola(), rates)
    assert found.losses == pytest.approx(expected) and found.rates == pytest.approx(rates)
    assert (found.planned, found.ended) == (20, "the last rate was reached")
    # Rates are multiples of the optimizer's own, and the parts of a step are averaged.
    assert sweep(Parabola(), [rate * 4 for rate in rates], lr=0.25, accumulate=3).losses == pytest.approx(expected)


def test_a_parabola_is_swept_to_its_known_points():
    rates = exponential_rates(1e-5, 10.0, 400)
    found = sweep(Parabola(), rates)
    # Plain descent diverges from 2 / curvature on. Below, the loss is about exp(-2 steps_per_unit curvature rate),
    # whose slope over the log of the rate is steepest where the exponent is -1.
    steps_per_unit = 399 / math.log(1e6)
    steepest, lowest = found.steepest(), found.lowest()
    assert steepest is not None and lowest is not None and not found.is_noisy()
    assert rates[steepest] == pytest.approx(1 / (2 * steps_per_unit * CURVATURE), rel=0.15)
    assert rates[lowest] == pytest.approx(2 / CURVATURE, rel=0.5)
    assert "rose above 4 times its lowest" in found.ended and len(found.losses) < 400


def test_it_stops_at_the_multiple_of_the_lowest_loss():
    model = Parabola()
    steps: list[int] = []
    losses = sweep(model, exponential_rates(0.8, 1.2, 100), stop_above=2.0, advance=steps.append)
    # Every rate is above 2 / curvature: nothing is called a divergence before the sixth step, and then at once.
    assert len(losses.losses) == 6 and steps == [1, 2, 3, 4, 5]
    assert losses.ended.startswith("the loss rose above 2 times its lowest at 0.8") and losses.lowest() is None


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_finite_ends_the_sweep_and_never_reaches_the_weights(poison):
    model = Parabola(bad_from=31, poison=poison)
    found = sweep(model, exponential_rates(1e-4, 1e-2, 100))
    assert len(found.losses) == len(found.rates) == 30 and all(map(math.isfinite, found.losses))
    assert found.ended.startswith("the loss or its gradient was not finite at ")
    assert model.weight.isfinite().all() and model.calls == 31
    assert sweep(Parabola(bad_from=1), exponential_rates(1e-4, 1e-2, 100)).losses == ()


def test_a_bad_gradient_alone_ends_it_too():
    class Root(Parabola):
        def forward(self, images, targets):
            return {"loss": (self.weight - 1).abs().sqrt().sum()}  # at 1: loss 0, slope infinite

    found = sweep(Root(), exponential_rates(1e-4, 1e-2, 100))
    assert found.losses == () and "gradient was not finite at 0.0001" in found.ended


def test_a_loss_that_only_rises_or_only_jitters_suggests_nothing_or_warns():
    rates = tuple(exponential_rates(1e-6, 1.0, 100))
    rising = Sweep(rates, tuple(1.0 + i for i in range(100)), 100, "")
    assert rising.lowest() is None and rising.steepest() is None
    noise = torch.rand(100, generator=torch.Generator().manual_seed(0)).tolist()
    assert Sweep(rates, tuple(noise), 100, "").is_noisy()
    fallen = Sweep(rates, tuple(value + (10 if i < 50 else 0) for i, value in enumerate(noise)), 100, "")
    assert not fallen.is_noisy() and abs((fallen.steepest() or 0) - 49.5) <= fallen.reach
