"""How strongly the layers of a network respond: the measurement behind figure 7 of the ResNet paper (section 4.2)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from detres.layers.norm import FrozenBatchNorm2d

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d, nn.GroupNorm, nn.Identity)


@dataclass
class LayerResponse:
    """The responses of one 3x3 layer so far, batch by batch.

    name  of the convolution, as in the state dict
    """

    name: str
    _batches: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    def add(self, response: Tensor) -> None:
        """Take in the responses (N, C, H, W) to a batch."""
        variance, mean = torch.var_mean(response.detach().float(), correction=0)
        self._batches.append((response.numel(), variance.double().cpu(), mean.double().cpu()))

    def std(self) -> float:
        """Their standard deviation over all images, channels and positions.

        Raises ValueError when there were none, or when they are not finite.
        """
        count = sum(number for number, _, _ in self._batches)
        if not count:
            raise ValueError(f"the layer {self.name} has not been run on any image")
        # Population variance of the whole = mean of the batches' variances + variance of their means.
        mean = sum((number * mean for number, _, mean in self._batches), torch.tensor(0.0)) / count
        squares = [number * (variance + (part - mean) ** 2) for number, variance, part in self._batches if number]
        std = float((sum(squares, torch.tensor(0.0)) / count).sqrt())
        if not math.isfinite(std):
            raise ValueError(f"the responses of the layer {self.name} are not finite: the network has diverged")
        return std


@contextmanager
def measured_responses(network: nn.Module) -> Iterator[Sequence[LayerResponse]]:
    """While the block lasts, every 3x3 layer of `network` notes its responses; they are filled by running it.

    A response is what comes out of the norm after the convolution, before the addition and the nonlinearity; of a
    convolution without a norm it is what the convolution puts out. Padding counts as image. Layers come in the order
    in which the network names them. Raises ValueError when there is no 3x3 convolution.
    """
    responses, replaced = [], []
    for conv, ending in _layers_3x3(network):
        responses.append(LayerResponse(conv))
        replaced.append((ending, network.get_submodule(ending)))
    if not responses:
        raise ValueError("the network has no 3x3 convolution, whose responses could be measured")
    try:
        for response, (ending, layer) in zip(responses, replaced, strict=True):
            _put(network, ending, _Measured(layer, response))
        yield responses
    finally:
        for ending, layer in replaced:
            _put(network, ending, layer)


class _Measured(nn.Module):
    """A layer that notes what it puts out.

    conv_norm computes a batch norm in evaluation inside the convolution, without calling it. This is no batch norm to
    it, so that the layer is called, and computes the same up to rounding.
    """

    def __init__(self, layer: nn.Module, response: LayerResponse) -> None:
        super().__init__()
        self.layer, self._response = layer, response
        self.training = layer.training

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        self._response.add(out)  # at once: the caller may add to it or rectify it in place
        return out


def _layers_3x3(network: nn.Module) -> list[tuple[str, str]]:
    """The names of each 3x3 convolution and of the layer that ends it: the norm registered next, else itself."""
    leaves = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    found = []
    for (name, layer), (next_name, next_layer) in zip(leaves, [*leaves[1:], ("", None)], strict=True):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            found.append((name, next_name if isinstance(next_layer, _NORMS) else name))
    return found


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own_name = name.rpartition(".")
    setattr(network.get_submodule(parent), own_name, layer)
