"""3x3 convolutions with a quarter of the multiplications, for inference on CPUs in float32.

Winograd's F(4x4, 3x3): tiles of 4 x 4 outputs need 6 x 6 inputs; with both transformed, a tile takes 36 multiplications
a pair of channels in place of 144, and these are 36 matrix products, which a grouped 1x1 convolution computes. Source:
Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.3, from where the matrices are.

Shapes: N images, C channels, O output channels, H x W cells; of a chunk n images, k rows of tiles and t columns.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_MIN_CHANNELS = 128  # with fewer the transforms cost more than the products save
_MIN_USED = 0.6  # of the cells of all tiles; what sticks out at the right and the bottom is computed in vain
_MIN_TILES = 32  # with fewer, reading the larger weights takes longest
_MIN_PRODUCTS = 64  # tiles, filled up with zeros: for fewer, oneDNN wants the weights in another order
_SMALL = 64  # cells of maps, such as those of regions, of which all tiles are transformed at once by a matrix
_CHUNK = 3 << 20  # numbers in the transformed tiles that are computed at one time, so that they stay in the cache


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution with the parameters of nn.Conv2d; the weight is kept transformed as well, four times as large.

    What does not pay, or is not float32 on a CPU, is computed as nn.Conv2d does.
    """

    _transformed: Tensor | None = None  # made at the first call, for this processor

    @classmethod
    def suits(cls, convolution: nn.Module) -> bool:
        """Whether a module is a convolution that this class can stand for, with enough channels to gain by it."""
        return (
            type(convolution) is nn.Conv2d
            and convolution.kernel_size == (3, 3)
            and convolution.stride == convolution.dilation == convolution.padding == (1, 1)
            and convolution.groups == 1
            and convolution.padding_mode == "zeros"
            and min(convolution.in_channels, convolution.out_channels) >= _MIN_CHANNELS
            and convolution.weight.dtype == torch.float32
            and convolution.weight.device.type == "cpu"
        )

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> "WinogradConv2d":
        """The same convolution, with the same parameters."""
        made = cls(convolution.in_channels, convolution.out_channels, 3, padding=1, device="meta")
        made.weight, made.bias = convolution.weight, convolution.bias
        return made.train(convolution.training)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H, W)."""
        height, width = maps.shape[-2:]
        rows, columns = -(-height // 4), -(-width // 4)
        tiles = len(maps) * rows * columns
        pays = tiles >= _MIN_TILES and height * width >= _MIN_USED * 16 * rows * columns
        if not pays or maps.dtype != torch.float32 or maps.device.type != "cpu" or torch.is_grad_enabled():
            return super().forward(maps)
        if self._transformed is None:
            self._transformed = transform_weight(self.weight)
        return convolve(maps, self._transformed, self.bias)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and files get: packed weights can be neither copied nor saved."""
        return {**self.__dict__, "_transformed": None}

    def _load_from_state_dict(self, *args: Any) -> None:
        self._transformed = None  # of weights that were
        super()._load_from_state_dict(*args)

    def _apply(self, *args: Any, **kwargs: Any) -> "WinogradConv2d":
        self._transformed = None
        return super()._apply(*args, **kwargs)


def use_winograd(network: nn.Module) -> int:
    """Replace every convolution in `network` that suits; returns how many."""
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if WinogradConv2d.suits(child)
    ]
    made: dict[nn.Module, WinogradConv2d] = {}
    for parent, name, child in places:
        assert isinstance(child, nn.Conv2d)
        if child not in made:
            made[child] = WinogradConv2d.of(child)
        setattr(parent, name, made[child])
    return len(made)


def transform_weight(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36 O, C, 1, 1), the weights of 36 groups, packed as the processor wants them if that is safe."""
    kernel = torch.tensor(_KERNEL, dtype=torch.float64)
    transformed = torch.kron(kernel, kernel) @ weight.detach().double().flatten(2).permute(2, 0, 1).flatten(1)
    grouped = transformed.view(-1, weight.shape[1], 1, 1).to(weight.dtype)
    return _packed(grouped, _MIN_PRODUCTS) if _has_one_packing(*grouped.shape[:2]) else grouped


def _packed(grouped: Tensor, tiles: int) -> Tensor:
    """The weights of 36 groups in the order that oneDNN wants them in for so many tiles."""
    size = [1, 36 * grouped.shape[1], tiles, 1]
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(grouped, [0, 0], [1, 1], [1, 1], 36, size)
    return packed


@lru_cache
def _has_one_packing(outputs: int, inputs: int) -> bool:
    """Whether weights can be packed once for any number of tiles, which spares ordering them at each call.

    By operators of torch's compiler, where they exist. Another order than the kernel's would be a hundred times slower.
    """
    names = ("_reorder_convolution_weight", "_convolution_pointwise", "_get_mkldnn_serialized_md")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    grouped = torch.empty(outputs, inputs, 1, 1, device="cpu")
    found = [torch.ops.mkldnn._get_mkldnn_serialized_md(_packed(grouped, _MIN_PRODUCTS << i)) for i in range(7)]
    return all(torch.equal(found[0], each) for each in found[1:])


def _multiply(tiles: Tensor, transformed: Tensor) -> Tensor:
    """Tiles (1, 36 C, T, 1) by the weights of 36 groups: (1, 36 O, T, 1)."""
    if not transformed.is_mkldnn:
        return F.conv2d(tiles, transformed, groups=36)
    fixed = {"padding": [0, 0], "stride": [1, 1], "dilation": [1, 1], "groups": 36}
    nothing_more = {"attr": "none", "scalars": [], "algorithm": ""}
    products: Tensor = torch.ops.mkldnn._convolution_pointwise(tiles, transformed, None, **fixed, **nothing_more)
    return products


def convolve(maps: Tensor, transformed: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of maps (N, C, H, W) with zero padding of 1, by weights from transform_weight and a bias (O,).

    Float32 as the weights; the result (N, O, H, W) is channels_last.
    """
    n, inputs, height, width = maps.shape
    source, channels = maps.permute(0, 2, 3, 1).contiguous(), transformed.shape[0] // 36
    out = maps.new_empty(n, height, width, channels)
    shift = maps.new_zeros(channels) if bias is None else bias
    scratch = _Scratch(maps)
    there, back = _matrices(height, width) if height * width <= _SMALL else (None, None)
    for images, rows in _chunks(n, -(-height // 4), -(-width // 4), max(inputs, channels)):
        part, to = source[images], out[images, 4 * rows.start : 4 * rows.stop]
        tiles = _transform_input(part, rows, scratch) if there is None else _transform_small(part, there, scratch)
        products = _multiply(tiles[None, :, None].permute(0, 3, 1, 2), transformed).permute(0, 2, 3, 1)[0]
        if back is None:
            _transform_output(products, shift, to, scratch)
        else:
            every = products[: len(part) * back.shape[1] // 36].view(len(part), -1, channels)
            torch.baddbmm(shift, back.expand(len(part), -1, -1), every, out=to.flatten(1, 2))
    return out.permute(0, 3, 1, 2)


@lru_cache
def _matrices(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Both transforms of whole small maps: (36 tiles, H W) there and (H W, 36 tiles) back."""
    cells, rows, columns = height * width, -(-height // 4), -(-width // 4)
    values, nothing = 36 * rows * columns, torch.zeros(0, dtype=torch.float32, device="cpu")
    each_cell, each_value = (nothing.new_ones(size).diag() for size in (cells, values))
    there = _transform_input(each_cell.view(1, height, width, cells), slice(0, rows), _Scratch(nothing))
    back = nothing.new_empty(1, height, width, values)
    _transform_output(each_value.view(-1, 36 * values), nothing.new_zeros(values), back, _Scratch(nothing))
    return there[: rows * columns].view(values, cells).clone(), back.view(cells, values)


def _chunks(images: int, rows: int, columns: int, channels: int) -> Iterator[tuple[slice, slice]]:
    """Images and rows of tiles: several whole images, or a part of one; _MIN_PRODUCTS tiles at least, or all."""
    wanted = max(2 * _MIN_PRODUCTS, _CHUNK // (36 * channels))
    if rows * columns < wanted:
        for each in _evenly(images, images * rows * columns // wanted):
            yield each, slice(0, rows)
    else:
        parts = list(_evenly(rows, rows * columns // wanted))
        yield from ((slice(image, image + 1), part) for image in range(images) for part in parts)


def _evenly(count: int, parts: int) -> Iterator[slice]:
    """0 ... count in so many slices (1 at least, `count` at most), as long as each other or longer by one."""
    parts = max(1, min(parts, count))
    edges = [count * i // parts for i in range(parts + 1)]
    return (slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False))


class _Scratch:
    """Memory that is used again by the next chunk, while it is in the cache."""

    def __init__(self, like: Tensor) -> None:
        self._like, self._kept = like, dict[str, Tensor]()

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A tensor of that shape, not filled, which lives until the name is asked for again."""
        count = torch.Size(shape).numel()
        if name not in self._kept or len(self._kept[name]) < count:
            self._kept[name] = self._like.new_empty(count)
        return self._kept[name][:count].view(shape)


def _window(source: Tensor, rows: slice, scratch: "_Scratch") -> Tensor:
    """What k rows of tiles see of (n, H, W, C), zeros around it: (n, 4 k + 2, 4 t + 2, C)."""
    n, height, width, channels = source.shape
    window = scratch("window", n, 4 * (rows.stop - rows.start) + 2, 4 * -(-width // 4) + 2, channels)
    first, last = max(0, 4 * rows.start - 1), min(height, 4 * rows.stop + 1)
    top = first - (4 * rows.start - 1)
    bottom = top + last - first
    window[:, :top], window[:, bottom:], window[:, :, 0], window[:, :, width + 1 :] = 0, 0, 0, 0
    window[:, top:bottom, 1 : width + 1] = source[:, first:last]
    return window


def _transform_input(source: Tensor, rows: slice, scratch: "_Scratch") -> Tensor:
    """k rows of tiles of (n, H, W, C) -> (T, 36 C): the n k t tiles, and zeros up to _MIN_PRODUCTS."""
    window = _window(source, rows, scratch)
    n, k, t, channels = len(window), window.shape[1] // 4, window.shape[2] // 4, window.shape[3]
    by_rows = scratch("rows", 6, n, k, window.shape[2], channels)
    _six([window[:, i : i + 4 * k - 3 : 4] for i in range(6)], by_rows)
    tiles = _empty_tiles(n * k * t, channels, scratch)
    places = tiles[: n * k * t].view(n, k, t, 6, 6, channels).permute(4, 3, 0, 1, 2, 5)
    _six([by_rows[:, :, :, i : i + 4 * t - 3 : 4] for i in range(6)], places)
    return tiles


def _transform_small(source: Tensor, matrix: Tensor, scratch: "_Scratch") -> Tensor:
    """The same for all of (n, H, W, C), by a matrix."""
    n, channels = len(source), source.shape[3]
    count = n * len(matrix) // 36
    tiles = _empty_tiles(count, channels, scratch)
    torch.bmm(matrix.expand(n, -1, -1), source.flatten(1, 2), out=tiles[:count].view(n, -1, channels))
    return tiles


def _empty_tiles(count: int, channels: int, scratch: "_Scratch") -> Tensor:
    tiles = scratch("tiles", max(count, _MIN_PRODUCTS), 36 * channels)
    tiles[count:] = 0
    return tiles


def _six(given: Sequence[Tensor], to: Tensor) -> None:
    """Six inputs in a row, transformed to `to[0]` ... `to[5]`."""
    d0, d1, d2, d3, d4, d5 = given
    even, odd = torch.add(d4, d2, alpha=-4), torch.add(d3, d1, alpha=-4)
    torch.add(even, odd, out=to[1])
    torch.sub(even, odd, out=to[2])
    torch.sub(d4, d2, out=even)
    torch.sub(d3, d1, out=odd)
    torch.add(even, odd, alpha=2, out=to[3])
    torch.sub(even, odd, alpha=2, out=to[4])
    torch.add(even, torch.sub(d0, d2), alpha=4, out=to[0])
    torch.sub(torch.sub(d5, d3), odd, alpha=4, out=to[5])


def _transform_output(products: Tensor, shift: Tensor, to: Tensor, scratch: "_Scratch") -> None:
    """(T, 36 O) -> the sums with a shift (O,), into rows of maps (n, up to 4 k, W, O)."""
    n, height, width, channels = to.shape
    k, t = -(-height // 4), -(-width // 4)
    tiles = products[: n * k * t].view(n, k, t, 6, 6, channels)
    by_rows = scratch("sums", 4, n, k, t, 6, channels)
    _four(tiles.permute(3, 0, 1, 2, 4, 5).unbind(), by_rows)
    cells = scratch("cells", n, k, 4, t, 4, channels)
    _four(by_rows.permute(4, 0, 1, 2, 3, 5).unbind(), cells.permute(4, 2, 0, 1, 3, 5))
    torch.add(cells.view(n, 4 * k, 4 * t, channels)[:, :height, :width], shift, out=to)


def _four(given: Sequence[Tensor], to: Tensor) -> None:
    """Six products in a row, transformed to the four outputs `to[0]` ... `to[3]`."""
    m0, m1, m2, m3, m4, m5 = given
    sum_12, sum_34 = torch.add(m1, m2), torch.add(m3, m4)
    torch.add(sum_12, sum_34, out=to[0]).add_(m0)
    torch.add(sum_12, sum_34, alpha=4, out=to[2])
    torch.sub(m1, m2, out=sum_12)
    torch.sub(m3, m4, out=sum_34)
    torch.add(sum_12, sum_34, alpha=2, out=to[1])
    torch.add(sum_12, sum_34, alpha=8, out=to[3]).add_(m5)
