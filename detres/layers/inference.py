"""OptimizableForInference: what networks have in common that can be made ready for inference alone.

Shapes: N images, H and W padded height and width.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from detres.layers.convolution import allow_one_pass
from detres.layers.flat_linear import FlatLinear
from detres.layers.folding import fold_norms
from detres.layers.winograd import use_winograd
from detres.structures import ImageBatch

if TYPE_CHECKING:
    from typing_extensions import Self

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NOT_TRAINABLE = (
    "this network was made ready for inference by optimize_for_inference() and cannot be trained: its batch norms are "
    "part of the convolutions. Load the checkpoint again, or optimise a copy: copy.deepcopy(network)"
)


class OptimizableForInference(nn.Module):
    """A network from `pixels`, which normalises an ImageBatch, by way of `backbone` to heads of its own."""

    pixels: Any
    backbone: nn.Module
    is_optimized = False
    _input_options: dict[str, Any] = {}  # never changed in place

    def optimize_for_inference(
        self,
        *,
        fold_norms: bool = True,
        channels_last: bool = True,
        winograd: bool = True,
        precision: str = "float32",
        compile: bool = False,
    ) -> "Self":
        """Turn the network, in place, into one that computes the same faster and no longer trains; returns itself.

        fold_norms     batch norms become part of the convolutions before them (the same numbers up to rounding)
        channels_last  maps are kept with the channels innermost, as fast convolutions want them
        winograd       3x3 convolutions of many channels take about half the time, in float32 and bfloat16 on CPUs and
                       not compiled (detres.layers.winograd); their weights are kept five times as large. What each
                       rounds is within 1e-5 of its largest value in float32, 4e-2 in bfloat16
        precision      float32, bfloat16 or float16: of the weights and maps. Pixels are normalised, boxes decoded,
                       scores and NMS computed in float32 all the same
        compile        by torch.compile, for images of any size: the first batches take half a minute or more, and a C++
                       compiler is needed

        Call it on the device where the network is to run, with its weights loaded: the state dict is another one
        afterwards. Images of unequal sizes and any batch size stay possible, and whatever is built around the network
        (detres.detector.test_time, protocols of classification). Raises ValueError for an unknown precision; training
        the network afterwards raises RuntimeError.
        """
        if precision not in _DTYPES:
            raise ValueError(f"precision must be one of {', '.join(_DTYPES)}; got {precision!r}")
        self.eval().requires_grad_(False)
        self.is_optimized = True
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._input_options = {"dtype": _DTYPES[precision], "memory_format": memory_format}
        if fold_norms:
            _fold(self)
        if channels_last:
            for layer in [each for each in self.modules() if isinstance(each, FlatLinear)]:
                layer.become_convolution()
        for part in self._parts():
            part.to(**self._input_options)
        if winograd and not compile:
            use_winograd(self)
        allow_one_pass(self)
        if compile:
            for part in self.compilable():
                part.compile(dynamic=True, options={"freezing": True})
        return self

    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        """The maps of the backbone for a batch of images."""
        maps: dict[str, Tensor] = self.backbone(self.pixels(images).to(**self._input_options))
        return maps

    def compilable(self) -> Iterator[nn.Module]:
        """The modules that torch.compile pays for."""
        yield self.backbone

    def train(self, mode: bool = True) -> "Self":
        """nn.Module.train; RuntimeError when the network was optimised for inference."""
        if mode and self.is_optimized:
            raise RuntimeError(_NOT_TRAINABLE)
        return super().train(mode)

    def check_trainable(self) -> None:
        """RuntimeError when gradients are wanted of a network that was optimised for inference."""
        if self.is_optimized and torch.is_grad_enabled():
            raise RuntimeError(_NOT_TRAINABLE)

    def _parts(self) -> Iterator[nn.Module]:
        return (child for child in self.children() if child is not self.pixels)


def optimize_networks(whole: nn.Module, **options: Any) -> int:
    """Call optimize_for_inference(**options) on every network in `whole`, itself or what it is built around.

    Returns how many there were: none in a network of somebody's.
    """
    networks = [module for module in whole.modules() if isinstance(module, OptimizableForInference)]
    for network in networks:
        network.optimize_for_inference(**options)
    return len(networks)


_fold = fold_norms  # whose name is that of a setting above
