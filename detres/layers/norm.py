"""Normalisation layers, and a convolution with its norm computed in one step.

Shapes: N images, C channels, H x W positions. Maps are (N, C, H, W), what belongs to a channel is (C,).
"""

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from detres.layers.convolution import convolve_relu

NORM_NAMES = ("batch", "frozen_batch", "sync_batch", "group", "none")


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and a fixed affine part (ResNet paper, appendix A).

    Its four tensors (C,) are buffers: no optimizer sees them and `train()` does not change them. They are named as
    in nn.BatchNorm2d, so that its state dicts load; `num_batches_tracked`, meaningless here, is let go.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The map (N, C, H, W) times `scale` plus `shift`, in the dtype of the map."""
        scale, shift = scale_and_shift(self)
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"{len(self.weight)}, eps={self.eps}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes (torch.distributed), on CPUs too.

    On a GPU it computes what nn.SyncBatchNorm does, alone and in evaluation what nn.BatchNorm2d does. On CPUs, which
    torch refuses, mean and variance are sums over the processes of what each has, the variance about the common mean,
    and so are their gradients. No nn.SyncBatchNorm itself: DistributedDataParallel would refuse that on CPUs as well.
    """

    process_group = None
    is_synchronised = True

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, in the dtype of the input."""
        if not (self.training and _others_compute()):
            return super().forward(x)
        if x.device.type != "cpu":
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]
        values = x if x.dtype == torch.float64 else x.float()
        sums = _sum_over_processes(torch.cat([values.sum((0, 2, 3)), values.new_tensor([x.numel() // x.shape[1]])]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = values - mean[:, None, None]
        variance = _sum_over_processes(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats:
            self._collect(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _check_non_zero_input_channels(self, x: Tensor) -> None:
        """What nn.SyncBatchNorm.forward asks of itself."""
        nn.SyncBatchNorm._check_non_zero_input_channels(self, x)  # type: ignore[arg-type]

    @torch.no_grad()
    def _collect(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _SumOverProcesses(torch.autograd.Function):
    """A sum to which all processes contribute and which all use: so the gradient is a sum over all as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(values: Tensor) -> Tensor:
    return _SumOverProcesses.apply(values)


def _others_compute() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def make_norm(name: str, channels: int, eps: float = 1e-5) -> nn.Module:
    """The norm of that name for maps of `channels` channels.

    "group" has 32 groups (Wu & He, 2018), or as many as divide both 32 and the channels; "none" is the identity.
    Raises ValueError for any other name.
    """
    match name:
        case "batch":
            return nn.BatchNorm2d(channels, eps=eps)
        case "frozen_batch":
            return FrozenBatchNorm2d(channels, eps=eps)
        case "sync_batch":
            return SyncBatchNorm(channels, eps=eps)
        case "group":
            return nn.GroupNorm(math.gcd(32, channels), channels, eps=eps)
        case "none":
            return nn.Identity()
    raise ValueError(f"norm: got {name!r}, expected one of {', '.join(NORM_NAMES)}")


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """norm(conv(x)), in one pass where the norm is a fixed affine map.

    Frozen and evaluating batch norms scale and shift each output channel, which the convolution can do by itself:
    conv(x; w) * scale + shift = conv(x; w * scale) + shift. Exact up to rounding, gradients included, and it saves
    one or two trips of the whole map through memory. The `norm` module itself is then not called.
    """
    is_fixed = isinstance(norm, FrozenBatchNorm2d) or (
        isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)) and not norm.training
    )
    if not is_fixed:
        return norm(conv(x))
    scale, shift = scale_and_shift(norm)
    weight = conv.weight * scale[:, None, None, None]
    bias = shift if conv.bias is None else conv.bias * scale + shift
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def conv_norm_relu(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """relu(conv_norm(x, conv, norm)), in one pass where there is no norm, or none any more (fold_norms)."""
    return convolve_relu(conv, x) if isinstance(norm, nn.Identity) else F.relu_(conv_norm(x, conv, norm))


class ConvNorm(nn.Sequential):
    """Layers of which the last two are a convolution and its norm: the same as nn.Sequential, by way of conv_norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) -> map (N, C, H', W')."""
        *before, conv, norm = self
        assert isinstance(conv, nn.Conv2d), "the last layer but one must be a Conv2d"
        for layer in before:
            x = layer(x)
        return conv_norm(x, conv, norm)


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """The two (C,) vectors of a batch norm that uses its running statistics."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
