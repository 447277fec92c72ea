"""How well the anchors fit the boxes at the scales of training.

Shapes: B boxes, N images, V variants of a size (the choices that the transforms have).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from detres import wiring
from detres.config import Config
from detres.config.backbones import OutsideBackbone
from detres.data.scene import shortest_edge_size
from detres.detector import FasterRCNN

IOUS = (0.5, 0.7)
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
"""COCO's groups, by the area in the image as annotated."""
LEGEND = (
    "Small objects have an area below 32 x 32 pixels in the image as annotated, large ones of at least 96 x 96. "
    "IoU: the share of the objects for which some anchor reaches it at the scales of training; best IoU: the mean. "
    "Size is the square root of the area at the training scale; it and height / width as 10%, 50% and 90% quantiles."
)
_LSJ_STEPS = 5  # scales that stand for a range


class AnchorGrid(NamedTuple):
    """What there is to know of a model's anchors.

    cells         per level, the anchors of a cell at the origin (anchors, 4)
    strides       per level
    divisibility  image sides are padded to multiples of it
    from_shape    steps between cells are padded size // feature size, not the strides
    straddle      anchors that pass the border by more are not trained; negative: all are
    """

    cells: Sequence[np.ndarray]
    strides: Sequence[int]
    divisibility: int
    from_shape: bool = False
    straddle: float = -1.0


def grid_of(config: Config, num_classes: int) -> AnchorGrid:
    """The anchors of the configured detector, which is built without memory."""
    # A class of the user's may look at values, which the meta device has none of.
    with torch.device("cpu" if isinstance(config.model.backbone, OutsideBackbone) else "meta"):
        model = wiring.build_model(config, num_classes)
    assert isinstance(model, FasterRCNN), "classifiers have no anchors"
    anchors, strides = model.rpn.anchors, model.rpn.strides
    cells = [anchors.cell_anchors(level).double().numpy() for level in range(len(strides))]
    divisibility = max(1, config.model.pixels.size_divisibility)
    return AnchorGrid(cells, strides, divisibility, anchors.stride == "from_shape", model.rpn.straddle_threshold)


def training_sizes(size_hw: tuple[int, int], steps: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """The sizes (V of them) that an image can have after the transforms that resize; crops leave objects as large."""
    sizes = [size_hw]
    for step in steps:
        match step["type"]:
            case "resize_shortest":
                sizes = [shortest_edge_size(size, short, step["max"]) for size in sizes for short in step["short"]]
            case "resize":
                sizes = [(step["height"], step["width"]) for _ in sizes]
            case "large_scale_jitter":
                ratios = np.linspace(step["min_scale"], step["max_scale"], _LSJ_STEPS).tolist()
                sizes = [_fitted(size, step["size"], ratio) for size in sizes for ratio in ratios]
    return sizes


def _fitted(size_hw: tuple[int, int], target: int, ratio: float) -> tuple[int, int]:
    scale = ratio * min(target / size_hw[0], target / size_hw[1])
    return max(1, math.floor(size_hw[0] * scale + 0.5)), max(1, math.floor(size_hw[1] * scale + 0.5))


def training_sizes_of(sizes_hw: np.ndarray, steps: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The same for many images: (N, V, 2)."""
    unique, inverse = np.unique(sizes_hw, axis=0, return_inverse=True)
    variants = [training_sizes((int(height), int(width)), steps) for height, width in unique]
    if not variants:
        return np.zeros((0, len(training_sizes((1, 1), steps)), 2), dtype=np.int64)
    return np.array(variants, dtype=np.int64)[inverse.reshape(-1)]


def best_ious(boxes_xyxy: np.ndarray, sizes_hw: np.ndarray, grid: AnchorGrid) -> np.ndarray:
    """The IoU (B,) of each box (B, 4) with the anchor that fits it best, in an image of (B, 2) height, width alone.

    On the grid of one shape of anchor the overlaps along x and along y depend on one coordinate each, and fall with
    the distance of the centres: the nearest column and row make the best anchor, and no other needs a look.
    """
    best = np.zeros(len(boxes_xyxy))
    padded = -(-sizes_hw // grid.divisibility) * grid.divisibility
    areas = np.prod(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=1)
    for cells, stride in zip(grid.cells, grid.strides, strict=True):
        counts = -(-padded // stride)
        steps = padded // counts if grid.from_shape else np.full_like(counts, stride)
        for anchor in cells:
            shared = np.ones(len(boxes_xyxy))
            for axis, side in ((0, 1), (1, 0)):  # x with widths, y with heights
                spans, span = boxes_xyxy[:, axis::2], anchor[axis::2]
                shared *= _best_overlap(spans, span, counts[:, side], steps[:, side], sizes_hw[:, side], grid)
            area = (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
            best = np.maximum(best, shared / (areas + area - shared))
    return best


def _best_overlap(
    spans: np.ndarray, anchor: np.ndarray, counts: np.ndarray, steps: np.ndarray, limits: np.ndarray, grid: AnchorGrid
) -> np.ndarray:
    """How much of spans (B, 2) the best of the shifted spans of an anchor (2,) covers along one axis: (B,)."""
    low, high = np.zeros(len(spans)), counts - 1.0
    if grid.straddle >= 0:
        low = np.maximum(low, np.ceil((-grid.straddle - anchor[0]) / steps))
        high = np.minimum(high, np.floor((limits + grid.straddle - anchor[1]) / steps))
    position = np.round((spans.mean(axis=1) - anchor.mean()) / steps)
    shift = np.clip(position, low, np.maximum(low, high)) * steps
    overlap = np.minimum(spans[:, 1], anchor[1] + shift) - np.maximum(spans[:, 0], anchor[0] + shift)
    found: np.ndarray = np.where(high >= low, np.maximum(overlap, 0.0), 0.0)
    return found


class Coverage(NamedTuple):
    """How well anchors fit boxes, as means over the variants of the size.

    best     (B,) the IoU with the best anchor
    reached  (2, B) the share of the variants in which it is at least IOUS
    sides    (B, 2) width and height at the training scale
    """

    best: np.ndarray
    reached: np.ndarray
    sides: np.ndarray


def measure(boxes_xyxy: np.ndarray, sizes_hw: np.ndarray, variants_hw: np.ndarray, grid: AnchorGrid) -> Coverage:
    """Boxes (B, 4) of images of sizes (B, 2), at the training sizes (B, V, 2)."""
    found, sides = [], []
    for variant in range(variants_hw.shape[1]):
        new_hw = variants_hw[:, variant]
        scale = (new_hw / sizes_hw)[:, [1, 0, 1, 0]]
        scaled = boxes_xyxy * scale
        found.append(best_ious(scaled, new_hw, grid))
        sides.append(scaled[:, 2:] - scaled[:, :2])
    ious = np.stack(found)
    reached = np.stack([(ious >= threshold).mean(axis=0) for threshold in IOUS])
    return Coverage(ious.mean(axis=0), reached, np.mean(sides, axis=0))


def join(parts: Sequence[Coverage]) -> Coverage:
    """The coverage of several sets of boxes as one."""
    best, reached, sides = zip(*parts, strict=True)
    return Coverage(np.concatenate(best), np.concatenate(reached, axis=1), np.concatenate(sides))


def coverage_rows(coverage: Coverage, areas: np.ndarray) -> list[dict[str, Any]]:
    """A row for all objects and one for each group of sizes; LEGEND explains them."""
    groups = {"all": np.ones(len(areas), dtype=bool)}
    groups |= {name: (areas >= low) & (areas < high) for name, (low, high) in SIZES.items()}
    rows = []
    for name, mask in groups.items():
        row: dict[str, Any] = {"objects": name, "count": int(mask.sum())}
        for threshold, reached in zip(IOUS, coverage.reached, strict=True):
            row[f"IoU >= {threshold}"] = f"{reached[mask].mean():.1%}" if mask.any() else "n/a"
        row["best IoU"] = f"{coverage.best[mask].mean():.2f}" if mask.any() else "n/a"
        widths, heights = coverage.sides[mask].T
        row["size"] = _spread(np.sqrt(widths * heights), "{:.0f}")
        row["height / width"] = _spread(heights / widths, "{:.2f}")
        rows.append(row)
    return rows


def _spread(values: np.ndarray, form: str) -> str:
    if not len(values):
        return "n/a"
    return " ".join(form.format(value) for value in np.quantile(values, (0.1, 0.5, 0.9)))
