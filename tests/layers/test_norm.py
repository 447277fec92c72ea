"""detres.layers.norm against torch's and torchvision's norms."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from detres.layers.norm import NORM_NAMES, ConvNorm, FrozenBatchNorm2d, conv_norm, make_norm
from detres.structures.processes import Processes
from tests.together import run_together


def randomize(norm: nn.Module) -> nn.Module:
    """Statistics and affine parameters that differ from the identity."""
    for name, tensor in norm.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if name.endswith(("weight", "running_var")) else tensor.normal_()
    return norm


@pytest.mark.parametrize("name", NORM_NAMES)
def test_no_images(name: str) -> None:
    norm = make_norm(name, 64).eval()
    assert norm(torch.zeros(0, 64, 5, 5)).shape == (0, 64, 5, 5)
    assert conv_norm(torch.zeros(0, 3, 5, 5), nn.Conv2d(3, 64, 3), norm).shape == (0, 64, 3, 3)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.1])
def test_frozen_batch_norm_equals_torchvision(eps: float) -> None:
    theirs = randomize(TorchvisionFrozenBatchNorm2d(8, eps=eps))
    ours = FrozenBatchNorm2d(8, eps=eps)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_frozen_batch_norm_loads_a_batch_norm_and_stays_as_it_is() -> None:
    batch_norm = randomize(nn.BatchNorm2d(8)).eval()
    frozen = FrozenBatchNorm2d(8)
    frozen.load_state_dict(batch_norm.state_dict())
    frozen.train()
    x = torch.randn(2, 8, 5, 7) * 3 + 1
    torch.testing.assert_close(frozen(x), batch_norm(x))
    torch.testing.assert_close(frozen(x), batch_norm(x))
    assert not list(frozen.parameters())
    assert "num_batches_tracked" in batch_norm.state_dict(), "the caller's state dict must not change"


def test_frozen_batch_norm_names_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match="running_var"):
        FrozenBatchNorm2d(2).load_state_dict({"weight": torch.ones(2), "bias": torch.ones(2)})


def test_frozen_batch_norm_keeps_the_dtype() -> None:
    assert FrozenBatchNorm2d(2)(torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (48, 16), (30, 2), (7, 1)])
def test_group_norm_takes_fewer_groups_when_channels_do_not_divide(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


@pytest.mark.parametrize("name", ["batch", "frozen_batch", "sync_batch", "group"])
def test_eps_is_passed_on(name: str) -> None:
    assert make_norm(name, 32, eps=0.25).eps == 0.25


def test_sync_batch_norm_alone_goes_by_its_own_batch() -> None:
    x = torch.randn(4, 32, 5, 5) * 3 + 1
    alone, plain = make_norm("sync_batch", 32).train(), make_norm("batch", 32).train()
    torch.testing.assert_close(alone(x), plain(x))
    torch.testing.assert_close(alone.running_var, plain.running_var)


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match=r"norm: got 'layer', expected one of batch, frozen_batch"):
        make_norm("layer", 8)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", NORM_NAMES)
def test_conv_norm_equals_norm_after_conv(name: str, with_bias: bool, training: bool) -> None:
    conv = nn.Conv2d(8, 32, 3, stride=2, padding=2, dilation=2, groups=4, bias=with_bias)
    norm = randomize(make_norm(name, 32)).train(training)
    x = torch.randn(3, 8, 9, 11, requires_grad=True)
    learnt = [x, *conv.parameters(), *norm.parameters()]

    def value_and_gradients(y: Tensor) -> list[Tensor]:
        return [y.detach(), *torch.autograd.grad((y * torch.cos(torch.arange(y.numel()).view_as(y))).sum(), learnt)]

    expected = value_and_gradients(norm(conv(x)))
    for got in (conv_norm(x, conv, norm), ConvNorm(conv, norm)(x)):
        torch.testing.assert_close(value_and_gradients(got), expected, rtol=1e-4, atol=1e-4)


def test_training_batch_norm_collects_statistics() -> None:
    norm = nn.BatchNorm2d(4)
    conv_norm(torch.randn(2, 3, 8, 8), nn.Conv2d(3, 4, 1), norm)
    assert norm.num_batches_tracked == 1


def test_conv_norm_keeps_channels_last_and_low_precision() -> None:
    conv, norm = nn.Conv2d(8, 16, 1, bias=False), make_norm("frozen_batch", 16)
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv_norm(x, conv.to(memory_format=torch.channels_last), norm)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_conv_norm_with_layers_before() -> None:
    pool, conv, norm = nn.AvgPool2d(2), nn.Conv2d(3, 4, 1), randomize(nn.BatchNorm2d(4)).eval()
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(ConvNorm(pool, conv, norm)(x), norm(conv(pool(x))))


def _normalised(norm: nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """Output, gradients and statistics of one step."""
    x = x.clone().requires_grad_()
    y = norm(x)
    gradients = torch.autograd.grad((y * upstream).sum(), [x, *norm.parameters()])
    return [y.detach(), *gradients, norm.running_mean, norm.running_var]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sync_batch_norm_of_two_processes_is_batch_norm_of_both_their_images(dtype: torch.dtype) -> None:
    plain, shared = (randomize(make_norm(name, 8)).train() for name in ("batch", "sync_batch"))
    shared.load_state_dict(plain.state_dict())
    x, upstream = (torch.randn(5, 8, 6, 7) * 3 + 100).to(dtype), torch.randn(5, 8, 6, 7)
    shares = [slice(0, 2), slice(2, 5)]  # unequal ones

    def share(processes: Processes) -> list[Tensor]:
        own = shares[processes.rank]
        return _normalised(shared, x[own], upstream[own])

    first, second = run_together(2, share)
    y, by_x, by_weight, by_bias, mean, variance = _normalised(plain, x, upstream)
    close: dict[str, float] = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 5e-2}
    torch.testing.assert_close(torch.cat([first[0], second[0]]), y, **close)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), by_x, **close)
    torch.testing.assert_close(first[2] + second[2], by_weight, **close)
    torch.testing.assert_close(first[3] + second[3], by_bias, **close)
    for found in (first, second):
        torch.testing.assert_close(found[4], mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[5], variance, rtol=1e-4, atol=1e-4)
