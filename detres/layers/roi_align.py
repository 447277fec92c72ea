"""RoIAlign for CPUs: each bin is a weighted sum of rows of the channels-last map, forwards and backwards.

torchvision's operator reads a map channel by channel on one thread. Here the points of a bin are first gathered into
the cells around them, each with the sum of its bilinear weights; then torch.nn.functional.embedding_bag, which is made
for weighted sums of table rows and uses vectors and threads, adds the rows up. The gradient is the same sum the other
way round: each cell is a bag of bins.

Shapes: N images, C channels, maps of H x W cells, R regions, S bins a side, K cells a side of a bin, B = R * S * S
bins, T pairs of a bin and a cell.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_REGIONS_AT_ONCE = 256  # so that what is computed of them stays in the processor's cache
_TILE = 16  # cells; regions of one tile are taken together, for the same reason


class _Pairs(NamedTuple):
    """Which cells a bin is made of: bin by bin, `ends` (B,) where each bin's pairs end; all others are (T,)."""

    cells: Tensor
    weights: Tensor
    bins: Tensor
    ends: Tensor


class _Spans(NamedTuple):
    """Along one axis: the first cell of each bin (R, S), how many it takes (R, S), their weights (R, S, K)."""

    first: Tensor
    number: Tensor
    weights: Tensor


@torch.compiler.disable  # how many pairs there are is only known from the regions
def roi_align_rows(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    *,
    output_size: int,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign (He et al., 2017) on the CPU of regions (R, 5: image, x1, y1, x2, y2 in pixels), as torchvision's.

    features  maps (N, C, H, W) on the CPU, best in channels_last memory (others are copied); scales: of pixels to cells
    levels    (R,) int64, which of them each region is cut from

    Returns (R, C, S, S) in channels_last memory and the dtype of the maps; differentiable once, by the maps. Regions
    with NaN or infinite corners are zero.
    """
    result: Tensor = _RoIAlign.apply(
        rois.float() if rois.dtype != torch.float64 else rois,
        levels, output_size, tuple(scales), sampling_ratio, aligned, *features,
    )  # fmt: skip
    return result


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rois: Tensor,
        levels: Tensor,
        output_size: int,
        scales: Sequence[float],
        sampling_ratio: int,
        aligned: bool,
        *features: Tensor,
    ) -> Tensor:
        channels = features[0].shape[1]
        result = features[0].new_zeros(len(rois), output_size * output_size * channels)
        saved: list[list[Tensor]] = []
        for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
            table, of_level = _rows(feature), []
            boxes = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
            for regions in _by_place(rois[:, 0], boxes, levels == level):
                images, size_hw = rois[regions, 0].int(), (feature.shape[2], feature.shape[3])
                pairs = _pairs(images, boxes[regions], size_hw, output_size, sampling_ratio, aligned)
                pooled = _sum_of_rows(table, pairs.cells, pairs.weights, pairs.ends)
                result.index_copy_(0, regions, pooled.view(len(regions), -1))
                of_level += [pairs.cells, pairs.weights, _of_all(pairs.bins, regions, output_size**2)]
            saved.append(of_level)
        ctx.shapes = [feature.shape for feature in features]
        ctx.counts = [len(of_level) // 3 for of_level in saved]
        ctx.save_for_backward(*(tensor for of_level in saved for tensor in of_level))
        return result.view(len(rois), output_size, output_size, channels).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        table, saved = _rows(gradients[0]), iter(ctx.saved_tensors)
        maps: list[Tensor] = []
        for (images, channels, height, width), count in zip(ctx.shapes, ctx.counts, strict=True):
            parts = [(next(saved), next(saved), next(saved)) for _ in range(count)]
            if not parts:
                maps.append(table.new_zeros(images, height, width, channels).permute(0, 3, 1, 2))
                continue
            cells, weights, bins = (torch.cat(column) for column in zip(*parts, strict=True))
            order = cells.argsort(stable=True)
            ends = torch.bincount(cells, minlength=images * height * width).cumsum(0, dtype=torch.int32)
            rows = _sum_of_rows(table, bins.index_select(0, order), weights.index_select(0, order), ends)
            maps.append(rows.view(images, height, width, channels).permute(0, 3, 1, 2))
        return None, None, None, None, None, None, *maps


def _rows(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) as a table (N * H * W, C); a view where the memory is channels_last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _sum_of_rows(table: Tensor, rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """For each end the weighted sum of table rows since the last one; zeros where there are none."""
    starts = F.pad(ends[:-1], (1, 0))
    return F.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights.to(table.dtype))


def _by_place(images: Tensor, boxes: Tensor, chosen: Tensor) -> Sequence[Tensor]:
    """Numbers of the chosen regions, so many at a time; neighbours in the map follow each other."""
    numbers = chosen.nonzero().flatten()
    if not len(numbers):
        return ()
    column, row = torch.nan_to_num(boxes[numbers, :2], 0.0, 0.0, 0.0).clamp(0, 2.0**20).long().unbind(1)
    place = ((images[numbers].long() << 20) + row // _TILE << 20) + column
    return numbers[place.argsort()].split(_REGIONS_AT_ONCE)


def _of_all(bins: Tensor, regions: Tensor, per_region: int) -> Tensor:
    """The bins of some regions, counted among those of all."""
    within = bins % per_region
    return (regions.int() * per_region).index_select(0, torch.div(bins, per_region, rounding_mode="floor")) + within


def _pairs(
    images: Tensor, boxes: Tensor, size_hw: tuple[int, int], bins: int, sampling_ratio: int, aligned: bool
) -> _Pairs:
    """The cells of every bin of regions: images (R,) int32, boxes (R, 4) in cells."""
    height, width = size_hw
    rows = _spans(boxes[:, 1], boxes[:, 3], height, bins, sampling_ratio, aligned)
    columns = _spans(boxes[:, 0], boxes[:, 2], width, bins, sampling_ratio, aligned)
    per_row = columns.number[:, None, :].expand(-1, bins, -1).flatten()  # (B,): cells in a row of the bin
    counts = rows.number.repeat_interleave(bins, dim=1).flatten() * per_row
    ends = counts.cumsum(0, dtype=torch.int32)
    of_bin = torch.arange(len(counts), dtype=torch.int32).repeat_interleave(counts)
    nth = torch.arange(len(of_bin), dtype=torch.int32) - (ends - counts).index_select(0, of_bin)
    row = torch.div(nth, per_row.index_select(0, of_bin), rounding_mode="floor")
    column = nth - row * per_row.index_select(0, of_bin)
    corner = (images[:, None, None] * height + rows.first[:, :, None]) * width + columns.first[:, None, :]
    cells = corner.flatten().index_select(0, of_bin) + row * width + column
    row_weights, column_weights = _places(rows, columns, bins)
    weights = rows.weights.flatten().index_select(0, row_weights.index_select(0, of_bin) + row)
    weights *= columns.weights.flatten().index_select(0, column_weights.index_select(0, of_bin) + column)
    return _Pairs(cells, weights, of_bin, ends)


def _places(rows: _Spans, columns: _Spans, bins: int) -> tuple[Tensor, Tensor]:
    """For every bin (B,), where its weights begin in the flat tables of both axes."""
    number = torch.arange(len(rows.first) * bins, dtype=torch.int32).view(-1, bins)
    row = number[:, :, None].expand(-1, -1, bins) * rows.weights.shape[2]
    column = number[:, None, :].expand(-1, bins, -1) * columns.weights.shape[2]
    return row.flatten(), column.flatten()


def _spans(start: Tensor, end: Tensor, size: int, bins: int, sampling_ratio: int, aligned: bool) -> _Spans:
    """What the bins of regions start ... end (R,), in cells, take along one axis of `size` cells."""
    usable = start.isfinite() & end.isfinite()
    start, end = start.where(usable, -2.0), end.where(usable, -2.0)  # beyond the map, where nothing is sampled
    length = end - start if aligned else (end - start).clamp(min=1)
    per_bin = length / bins
    asked = torch.full_like(per_bin, sampling_ratio) if sampling_ratio > 0 else per_bin.ceil()
    samples = asked.clamp(min=1)
    number = torch.arange(int(samples.max()), dtype=start.dtype)
    begin = start[:, None] + torch.arange(bins, dtype=start.dtype) * per_bin[:, None]
    points = begin[..., None] + ((number + 0.5) * per_bin[:, None] / samples[:, None])[:, None]  # (R, S, samples)
    counted = (points >= -1) & (points <= size) & (number < asked[:, None])[:, None]
    points = points.clamp(0, size - 1)
    last = points.gather(2, (samples.long() - 1)[:, None, None].expand(-1, bins, -1)).squeeze(2)
    first = torch.minimum(points[..., 0], last).floor()  # boxes may be turned inside out
    taken = (torch.maximum(points[..., 0], last).floor() + 2).clamp(max=size) - first
    cells = first[..., None] + torch.arange(int(taken.max()), dtype=start.dtype)
    tents = (1 - (points[..., None] - cells[..., None, :]).abs()).clamp(min=0) * counted[..., None]
    return _Spans(first.int(), taken.int(), tents.sum(2) / samples[:, None, None])
