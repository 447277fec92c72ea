"""A convolution and what follows it cell by cell, without another trip of its map through memory where possible."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detres.layers.winograd import CellByCell, WinogradConv2d


def convolve_then(convolution: nn.Module, maps: Tensor, then: CellByCell) -> Tensor:
    """then(convolution(maps)), for a `then` that computes each cell of a map from this cell alone, in place or not.

    A WinogradConv2d calls it for parts of the map while they are in the cache.
    """
    return convolution(maps, then) if isinstance(convolution, WinogradConv2d) else then(convolution(maps))


def convolve_relu(convolution: nn.Conv2d, maps: Tensor) -> Tensor:
    """relu(convolution(maps)); in one pass on CPUs, without gradients, where the weights are not for learning.

    By an operator of torch's compiler, where it exists; to the bit what the two are one after the other.
    """
    if not _is_one_pass(convolution, maps):
        return convolve_then(convolution, maps, F.relu_)
    c = convolution
    fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
        maps, c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups, attr="relu", scalars=[], algorithm=""
    )
    return fused


def _is_one_pass(convolution: nn.Conv2d, maps: Tensor) -> bool:
    if type(convolution) is not nn.Conv2d or convolution._forward_hooks or convolution._forward_pre_hooks:
        return False
    if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str) or maps.dim() != 4:
        return False
    if (
        convolution.weight.requires_grad
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
    ):
        return False
    return maps.device.type == "cpu" and maps.dtype == convolution.weight.dtype and _has_operator(maps.dtype)


def _has_operator(dtype: torch.dtype) -> bool:
    """Whether oneDNN can be asked for a convolution with a ReLU of that dtype on this processor."""
    operators = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(operators, "_convolution_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return hasattr(operators, "_is_mkldnn_bf16_supported") and operators._is_mkldnn_bf16_supported()
    return dtype == torch.float32
