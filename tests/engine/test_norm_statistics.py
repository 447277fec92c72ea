"""Recomputed batch norm statistics against direct computations over all values."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from detres.engine.norm_statistics import recompute_norm_statistics
from detres.structures import Batch, ImageBatch


class OneLayer(nn.Module):
    """A convolution and its norm, then a second norm behind dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.bn = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)
        self.last = nn.BatchNorm2d(5)

    def forward(self, images: ImageBatch, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": self.last(self.drop(self.bn(self.conv(images.pixels)))).sum()}


class FrozenFirst(OneLayer):
    """The same with a first norm that stays as it is, in the manner of a frozen stage."""

    def train(self, mode: bool = True) -> "FrozenFirst":
        super().train(mode)
        self.bn.eval()
        return self


def _batches(*counts: int) -> list[Batch]:
    """Batches of unequal length whose brightness differs, so that the variance between their means is large."""
    made = []
    for number, count in enumerate(counts):
        images = [10.0 * number + torch.randn(3, 8, 8) for _ in range(count)]
        made.append(Batch(ImageBatch.from_images(images, size_divisibility=1), torch.zeros(count), [], []))
    return made


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def test_no_batch_is_an_error_and_changes_nothing() -> None:
    model = OneLayer()
    before = _state(model)
    with pytest.raises(ValueError, match="at least one batch"):
        recompute_norm_statistics(model, [], device="cpu")
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_no_norm_is_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.GroupNorm(1, 3), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="no batch norm"):
        recompute_norm_statistics(model, _batches(2), device="cpu")
    assert not any(module.training for module in model.modules())


def test_equal_to_the_statistics_of_all_values_together() -> None:
    model, batches, seen = OneLayer(), _batches(3, 1, 4), []
    before = _state(model)
    assert recompute_norm_statistics(model, batches, device="cpu", progress=seen.append) == 8
    assert seen == [3, 4, 8]
    values = model.conv(torch.cat([batch.images.pixels for batch in batches])).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.bn.running_mean, values.mean(1).float())
    torch.testing.assert_close(model.bn.running_var, values.var(1, correction=0).float())
    assert model.bn.running_var.max() > 10.0, "the batches' brightness must count"
    # Behind the first norm, which gives every batch mean 0 and variance 1, and without dropout:
    torch.testing.assert_close(model.last.running_mean, torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.last.running_var, torch.ones(5), atol=1e-3, rtol=0)
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(before[key], tensor)}
    assert changed == {f"{norm}.running_{part}" for norm in ("bn", "last") for part in ("mean", "var")}


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_restored(training: bool) -> None:
    model = OneLayer().train(training)
    model.drop.eval()
    recompute_norm_statistics(model, _batches(2), device="cpu")
    assert (model.training, model.bn.training, model.drop.training) == (training, training, False)
    assert model.bn.track_running_stats and not model.bn._forward_pre_hooks


def test_frozen_norms_are_used_and_kept() -> None:
    model, batches = FrozenFirst(), _batches(2, 2)
    recompute_norm_statistics(model, batches, device="cpu")
    assert torch.equal(model.bn.running_mean, torch.zeros(5)) and torch.equal(model.bn.running_var, torch.ones(5))
    inner = model.eval().bn(model.conv(torch.cat([batch.images.pixels for batch in batches])))
    values = inner.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.last.running_mean, values.mean(1).float())
    torch.testing.assert_close(model.last.running_var, values.var(1, correction=0).float())


def test_an_interruption_leaves_the_model_as_it_was() -> None:
    def failing() -> Iterator[Batch]:
        yield from _batches(2)
        raise KeyboardInterrupt

    model = OneLayer()
    before = _state(model)
    with pytest.raises(KeyboardInterrupt):
        recompute_norm_statistics(model, failing(), device="cpu")
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert model.bn.track_running_stats and model.drop.training


def test_overflow_is_refused_and_changes_nothing() -> None:
    model, batches = OneLayer(), _batches(2)
    batches[0].images.pixels[0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="bn are not finite"):
        recompute_norm_statistics(model, batches, device="cpu")
    assert torch.equal(model.bn.running_mean, torch.zeros(5))


def test_close_to_float32_under_bfloat16() -> None:
    model, batches = OneLayer(), _batches(4, 4)
    recompute_norm_statistics(model, batches, device="cpu")
    expected = model.bn.running_var.clone()
    recompute_norm_statistics(model, batches, device="cpu", precision="bfloat16")
    assert model.bn.running_var.dtype == torch.float32
    torch.testing.assert_close(model.bn.running_var, expected, rtol=0.03, atol=0)
