"""A convolution and what follows it cell by cell, without another trip of its map through memory where possible.

Hooks of a convolution see what they always see: where it has any, nothing is put together.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as _every

from detres.layers.winograd import CellByCell, WinogradConv2d

_SLOPE = 1e-30  # of the ReLU below zero: with none, oneDNN takes the larger of x and 0, and NaN would become 0


def convolve_then(convolution: nn.Module, maps: Tensor, then: CellByCell) -> Tensor:
    """then(convolution(maps)), for a `then` that computes each cell of a map from this cell alone, in place or not.

    A WinogradConv2d calls it for parts of the map while they are in the cache.
    """
    if isinstance(convolution, WinogradConv2d) and not _has_hooks(convolution):
        return convolution(maps, then)
    return then(convolution(maps))


def convolve_relu(convolution: nn.Conv2d, maps: Tensor) -> Tensor:
    """relu(convolution(maps)) up to rounding; on CPUs in one pass by an operator of torch's compiler, if it exists.

    Without gradients, and in networks that were told so by allow_one_pass. Values that are not finite stay so.
    """
    if not _is_one_pass(convolution, maps):
        return convolve_then(convolution, maps, F.relu_)
    c = convolution
    activation = {"attr": "leaky_relu", "scalars": [_SLOPE], "algorithm": ""}
    activated: Tensor = torch.ops.mkldnn._convolution_pointwise(
        maps, c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups, **activation
    )
    return activated


def allow_one_pass(network: nn.Module) -> None:
    """Let convolve_relu compute the convolutions of a network that does not train any more together with their ReLU."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.is_for_inference = True  # type: ignore[assignment]


def _is_one_pass(convolution: nn.Conv2d, maps: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if not getattr(convolution, "is_for_inference", False) or _has_hooks(convolution):
        return False
    if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str) or maps.dim() != 4:
        return False
    return maps.device.type == "cpu" and maps.dtype == convolution.weight.dtype and _has_operator(maps.dtype)


def _has_hooks(module: nn.Module) -> bool:
    of_every_module = _every._global_forward_hooks or _every._global_forward_pre_hooks
    return bool(module._forward_hooks or module._forward_pre_hooks or of_every_module)


def _has_operator(dtype: torch.dtype) -> bool:
    """Whether oneDNN can be asked for a convolution with its ReLU, of that dtype, on this processor."""
    operators = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()):
        return False
    if not hasattr(operators, "_convolution_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return hasattr(operators, "_is_mkldnn_bf16_supported") and operators._is_mkldnn_bf16_supported()
    return dtype == torch.float32
