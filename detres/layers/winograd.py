"""3x3 convolutions with a quarter of the multiplications, for inference on CPUs.

Winograd's F(4x4, 3x3): tiles of 4 x 4 outputs need 6 x 6 inputs; with both transformed, a tile takes 36 multiplications
a pair of channels in place of 144, and these are 36 matrix products, which a grouped 1x1 convolution computes. Source:
Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.3. The transforms are evaluations
and interpolations of polynomials: at 0, 3/4, -3/4, 3/2, -3/2 and infinity here, which in bfloat16 rounds half as much
as at the usual 0, 1, -1, 2, -2 (Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for
Deep Neural Networks", 2018, on why).

Shapes: N images, C channels, O output channels, H x W cells, T tiles; n images, k rows and t columns of tiles a chunk.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_POINTS = (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)
_MIN_CHANNELS = 128  # with fewer the transforms cost more than the products save
_MIN_USED = 0.6  # of the cells of all tiles; what sticks out at the right and the bottom is computed in vain
_MIN_TILES = 32  # with fewer, reading the larger weights takes longest
_MIN_PRODUCTS = 64  # tiles, filled up with zeros: for fewer, oneDNN wants the weights in another order
_SMALL = 64  # cells of maps, such as those of regions, whose tiles are transformed all at once
_CHUNK = 6 << 20  # numbers in the tiles that are computed at one time: more would not be faster, and need memory

CellByCell = Callable[[Tensor], Tensor]  # map (1, O, H, W) -> (1, any, H, W), each cell by itself, in place or not
_NOTHING = nn.Identity()


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution with the parameters of nn.Conv2d; the weight is kept transformed as well, four times as large.

    What does not pay, or is of another dtype than the weights or not on a CPU, is computed as nn.Conv2d does. Weights
    that are loaded or moved are transformed anew; that they are changed in place after a call is not noticed.
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
            and isinstance(convolution.weight, nn.Parameter)
            and convolution.weight.device.type == "cpu"
            and _pays(convolution.weight)
        )

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> "WinogradConv2d":
        """The same convolution, with the same parameters."""
        made = cls(convolution.in_channels, convolution.out_channels, 3, padding=1, device="meta")
        made.weight, made.bias = convolution.weight, convolution.bias
        return made.train(convolution.training)

    def forward(self, maps: Tensor, then: CellByCell = _NOTHING) -> Tensor:
        """(N, C, H, W) -> (N, O, H, W); then `then`, for parts of the result while they are in the cache."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not self._pays_for(maps):
            return then(super().forward(maps))
        if self._transformed is None:
            self._transformed = transform_weight(self.weight)
        return convolve(maps, self._transformed, self.bias, then)

    def _pays_for(self, maps: Tensor) -> bool:
        if maps.dim() != 4 or maps.device.type != "cpu":
            return False
        height, width = maps.shape[-2:]
        tiles = -(-height // 4) * -(-width // 4)
        pays = len(maps) * tiles >= _MIN_TILES and height * width >= _MIN_USED * 16 * tiles
        return pays and maps.dtype == self.weight.dtype and _pays(self.weight)

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
        for name, child in parent._modules.items()
        if child is not None and WinogradConv2d.suits(child)
    ]
    made: dict[nn.Module, WinogradConv2d] = {}
    for parent, name, child in places:
        assert isinstance(child, nn.Conv2d)
        if child not in made:
            made[child] = WinogradConv2d.of(child)
        setattr(parent, name, made[child])
    return len(made)


def _pays(weight: Tensor) -> bool:
    """Whether a kernel (O, C, 3, 3) has channels enough, and this processor a use for fewer multiplications."""
    is_fast = weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and _has_bfloat16_vectors())
    return is_fast and min(weight.shape[:2]) >= _MIN_CHANNELS


def _has_bfloat16_vectors() -> bool:
    """Whether bfloat16 has vector instructions. Without them nothing is gained, nor with the faster tiles (AMX)."""
    vectors, tiles = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return vectors is not None and tiles is not None and vectors() and not tiles()


def transform_weight(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36 O, C, 1, 1), the weights of 36 groups, packed as the processor wants them if that is safe."""
    transformed = _transforms().kernel @ weight.detach().double().flatten(2).permute(2, 0, 1).flatten(1)
    grouped = transformed.view(-1, weight.shape[1], 1, 1).to(weight.dtype)
    return _packed(grouped, _MIN_PRODUCTS) if _has_one_packing(*grouped.shape[:2], grouped.dtype) else grouped


class _Transforms(NamedTuple):
    """In float64, for both dimensions at once: matrices for tiles, kernels and products, and what makes them ones."""

    tile: Tensor  # (36, 36)
    kernel: Tensor  # (36, 9)
    product: Tensor  # (16, 36)
    shift: Tensor  # (36,), which the matrix for products turns into 16 times 1


@lru_cache
def _transforms() -> _Transforms:
    tile, kernel, product = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((4, 6))
    for i, point in enumerate(_POINTS):
        others = np.delete(_POINTS, i)
        tile[i, :5] = np.poly(others)[::-1]
        kernel[i] = point ** np.arange(3) / np.prod(point - others)
        product[:, i] = point ** np.arange(4)
    tile[5] = np.poly(_POINTS)[::-1]
    kernel[5, 2] = product[3, 5] = 1  # at infinity
    shift = np.linalg.pinv(product) @ np.ones(4)
    return _Transforms(*(torch.from_numpy(np.kron(each, each)) for each in (tile, kernel, product, shift)))


def _packed(grouped: Tensor, tiles: int) -> Tensor:
    """The weights of 36 groups in the order that oneDNN wants them in for so many tiles."""
    size = [1, 36 * grouped.shape[1], tiles, 1]
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(grouped, [0, 0], [1, 1], [1, 1], 36, size)
    return packed


@lru_cache
def _has_one_packing(outputs: int, inputs: int, dtype: torch.dtype) -> bool:
    """Whether weights can be packed once for any number of tiles, which spares ordering them at each call.

    By operators of torch's compiler, where they exist. Another order than the kernel's would be a hundred times slower.
    """
    names = ("_reorder_convolution_weight", "_convolution_pointwise", "_get_mkldnn_serialized_md")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    grouped = torch.empty(outputs, inputs, 1, 1, dtype=dtype, device="cpu")
    packed = [_packed(grouped, _MIN_PRODUCTS << i) for i in range(7)]
    found = [torch.ops.mkldnn._get_mkldnn_serialized_md(each) for each in packed]
    return all(torch.equal(found[0], each) for each in found[1:])


def convolve(maps: Tensor, transformed: Tensor, bias: Tensor | None, then: CellByCell = _NOTHING) -> Tensor:
    """The convolution of maps (N, C, H, W) with zero padding of 1, by weights from transform_weight and a bias (O,).

    All of one dtype; the result (N, O, H, W) is channels_last. Against a convolution in float64 it is wrong by up to
    1e-5 of the largest value in float32 and 4e-2 in bfloat16.
    """
    n, inputs, height, width = maps.shape
    outputs, rows, columns = transformed.shape[0] // 36, -(-height // 4), -(-width // 4)
    shift = None if bias is None else (_transforms().shift.to(bias.dtype)[:, None] * bias).flatten()
    chunks = list(_chunks(n, rows, columns, max(inputs, outputs)))
    counts = [(images.stop - images.start) * (part.stop - part.start) * columns for images, part in chunks]
    ways = _WholeMaps if height * width <= _SMALL else _Tiles
    way = ways(maps.permute(0, 2, 3, 1).contiguous(), outputs, max(counts), then)
    tiles = maps.new_empty(max(*counts, _MIN_PRODUCTS), 36, inputs)  # for all chunks
    for (images, part), count in zip(chunks, counts, strict=True):
        way.there(images, part, tiles[:count])
        tiles[count:_MIN_PRODUCTS] = 0
        products = _multiply(tiles[: max(count, _MIN_PRODUCTS)].flatten(1), transformed, shift)
        way.back(products[:count].view(count, 36, outputs), images, part)
    return way.result()


class _Tiles:
    """Transforms of maps (N, H, W, C) tile by tile, at most `most` at a time, and back to maps of O channels."""

    def __init__(self, source: Tensor, outputs: int, most: int, then: CellByCell) -> None:
        _, self._height, self._width, channels = source.shape
        self._source, self._rows, self._columns, self._then = source, -(-self._height // 4), -(-self._width // 4), then
        self._there, self._back = (each.to(source.dtype) for each in (_transforms().tile, _transforms().product))
        self._seen = source.new_empty(most, 36, channels)
        self._sums = source.new_empty(most, 16, outputs)
        self._out: Tensor | None = None  # made when it is known how many channels `then` has

    def there(self, images: slice, part: slice, tiles: Tensor) -> None:
        """The tiles of k rows, (n k t, 36, C)."""
        top, bottom = 4 * part.start - 1, 4 * part.stop + 1
        inside = self._source[images, max(0, top) : min(self._height, bottom)]
        right = 4 * self._columns + 1 - self._width
        window = F.pad(inside, (0, 0, 1, right, max(0, -top), max(0, bottom - self._height)))
        overlapping = window.unfold(1, 6, 4).unfold(2, 6, 4).permute(0, 1, 2, 4, 5, 3)  # (n, k, t, 6, 6, C)
        seen = self._seen[: len(tiles)]
        seen.view(overlapping.shape).copy_(overlapping)
        torch.bmm(self._there.expand(len(tiles), -1, -1), seen, out=tiles)

    def back(self, products: Tensor, images: slice, part: slice) -> None:
        """From (n k t, 36, O) into the result."""
        sums = self._sums[: len(products)]
        torch.bmm(self._back.expand(len(products), -1, -1), products, out=sums)
        cells = self._then(sums.view(1, -1, 1, sums.shape[2]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self._out is None:
            self._out = cells.new_empty(len(self._source), self._rows, 4, self._columns, 4, cells.shape[3])
        out = self._out[images, part]
        out.copy_(cells.reshape(*out.shape[:2], self._columns, 4, 4, -1).transpose(2, 3))

    def result(self) -> Tensor:
        """(N, O, H, W)."""
        assert self._out is not None, "maps have at least one tile"
        maps = self._out.flatten(3, 4).flatten(1, 2)[:, : self._height, : self._width]
        return maps.contiguous().permute(0, 3, 1, 2)


class _WholeMaps:
    """The same for small maps: all tiles of one by one matrix, which knows of padding and of what sticks out."""

    def __init__(self, source: Tensor, outputs: int, most: int, then: CellByCell) -> None:
        self._then = then
        height, width = source.shape[1:3]
        self._there, self._back = (each.to(source.dtype) for each in _matrices(height, width))
        self._source, self._out = source.flatten(1, 2), source.new_empty(len(source), height, width, outputs)

    def there(self, images: slice, part: slice, tiles: Tensor) -> None:
        """The tiles of whole maps, (n k t, 36, C)."""
        maps = self._source[images]
        torch.bmm(self._there.expand(len(maps), -1, -1), maps, out=tiles.view(len(maps), -1, maps.shape[2]))

    def back(self, products: Tensor, images: slice, part: slice) -> None:
        """From (n k t, 36, O) into the result."""
        out = self._out[images].flatten(1, 2)
        values, back = products.view(len(out), -1, out.shape[2]), self._back.expand(len(out), -1, -1)
        torch.bmm(back, values, out=out)

    def result(self) -> Tensor:
        """(N, O, H, W)."""
        return self._then(self._out.permute(0, 3, 1, 2))


@lru_cache
def _matrices(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Both transforms of whole maps in float64, from what _Tiles makes of ones: (36 tiles, H W) and (H W, 36 tiles)."""
    cells, rows, count = height * width, -(-height // 4), -(-height // 4) * -(-width // 4)
    ones = torch.eye(cells, dtype=torch.float64, device="cpu").view(1, height, width, cells)
    there = ones.new_empty(count, 36, cells)
    whole = slice(0, 1), slice(0, rows)
    _Tiles(ones, 1, count, _NOTHING).there(*whole, there)
    back = _Tiles(ones, 36 * count, count, _NOTHING)
    back.back(torch.eye(36 * count, dtype=torch.float64, device="cpu").view(count, 36, -1), *whole)
    return there.flatten(0, 1), back.result().permute(0, 2, 3, 1).reshape(cells, -1)


def _multiply(tiles: Tensor, transformed: Tensor, shift: Tensor | None) -> Tensor:
    """Tiles (T, 36 C) by the weights of 36 groups, plus a shift (36 O,): (T, 36 O)."""
    as_map = tiles[None, :, None].permute(0, 3, 1, 2)
    if not transformed.is_mkldnn:
        products = F.conv2d(as_map, transformed, shift, groups=36)
    else:
        fixed = {"padding": [0, 0], "stride": [1, 1], "dilation": [1, 1], "groups": 36}
        nothing_more = {"attr": "none", "scalars": [], "algorithm": ""}
        products = torch.ops.mkldnn._convolution_pointwise(as_map, transformed, shift, **fixed, **nothing_more)
    return products.permute(0, 2, 3, 1)[0, :, 0]


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
