"""Batch norms that are fixed, put into the weights of the convolutions before them.

Shapes: C output channels of a convolution.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from detres.layers.norm import ConvNorm, FrozenBatchNorm2d, SyncBatchNorm, scale_and_shift

_FIXED = (FrozenBatchNorm2d, TorchvisionFrozenBatchNorm2d, SyncBatchNorm, nn.BatchNorm2d, nn.SyncBatchNorm)


@torch.no_grad()
def fold_norms(network: nn.Module) -> int:
    """Give each convolution the scale and the shift (C,) of the batch norm after it, which becomes nn.Identity.

    As conv_norm computes it, once and for all: batch norms go by their running statistics. How many were folded is
    returned. Which convolution a norm follows is known in an nn.Sequential, and in modules that say so
    (`conv_norm_names`, pairs of names); other norms stay. So do subclasses, which may do more than a batch norm.
    """
    pairs = [(parent, conv, norm) for parent in network.modules() for conv, norm in _pairs(parent)]
    for parent, conv_name, norm_name in pairs:
        conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        scale, shift = scale_and_shift(norm)
        bias = shift if conv.bias is None else conv.bias * scale + shift
        conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        setattr(parent, norm_name, nn.Identity())
    return len(pairs)


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    """The names of the convolutions and norms in `parent` itself that can become one."""
    names: list[tuple[str, str]] = list(getattr(parent, "conv_norm_names", ()))
    if isinstance(parent, ConvNorm) or type(parent).forward is nn.Sequential.forward:
        children = [name for name, _ in parent.named_children()]
        names += zip(children, children[1:], strict=False)
    for conv, norm in names:
        if type(parent.get_submodule(conv)) is nn.Conv2d and _is_fixed(parent.get_submodule(norm)):
            yield conv, norm


def _is_fixed(norm: nn.Module) -> bool:
    return type(norm) in _FIXED and norm.weight is not None and norm.running_var is not None
