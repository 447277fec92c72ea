"""Pictures of an evaluation: curves and APs, predictions beside the ground truth; confusion matrix and mistakes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from detres.evaluation.metrics import PrecisionRecall
from detres.files.atomic_file import atomic_path
from detres.files.plain_text import printable
from detres.structures import Detections
from detres.structures.boxes import scale_boxes
from detres.structures.drawing import class_color, draw_boxes, font, to_pil

_MOST_IN_LEGEND = 12
_MOST_NAMED_CLASSES, _MOST_COUNTED_CLASSES = 50, 20  # in a confusion matrix
_HEADING = 22  # pixels above a picture of the grid
_RECALL = np.linspace(0, 1, 101)


class Comparison(NamedTuple):
    """One image of the grid: what is there and what was found, in pixels of `image`."""

    image: Any  # (3, H, W) uint8 tensor, (H, W, 3) uint8 array or PIL image
    true_boxes_xyxy: Tensor
    true_labels: Tensor
    detections: Detections
    title: str = ""


class Mistake(NamedTuple):
    """An image that was taken for another class, with the probability that this class was given."""

    image: Any  # as for Comparison
    true_name: str
    predicted_name: str
    probability: float


def plot_precision_recall(curves: Sequence[PrecisionRecall], path: str | Path) -> None:
    """One panel per IoU threshold: a line per class, and the mean over the classes in black.

    Up to twelve classes have colours and a legend; more are thin lines of one colour. The lines are upper envelopes,
    whose area is the AP. Without curves the picture says so.
    """
    figure = _figure((5.4 * max(1, len({c.iou_threshold for c in curves})), 4.6))
    thresholds = sorted({curve.iou_threshold for curve in curves})
    if not thresholds:
        _say(figure, "no class has ground truth")
    names = list(dict.fromkeys(curve.class_name for curve in curves))
    for number, threshold in enumerate(thresholds):
        axes = figure.add_subplot(1, len(thresholds), number + 1)
        chosen = [curve for curve in curves if curve.iou_threshold == threshold]
        lines = np.stack([_envelope(curve) for curve in chosen])
        few = len(chosen) <= _MOST_IN_LEGEND
        for curve, line in zip(chosen, lines, strict=True):
            color = _unit(class_color(names.index(curve.class_name))) if few else (0.3, 0.45, 0.65)
            style = {"color": color, "linewidth": 1.2 if few else 0.7, "alpha": 0.9 if few else 0.35}
            axes.plot(_RECALL, line, label=f"{_plain(curve.class_name)} {line.mean():.2f}", **style)
        axes.plot(_RECALL, lines.mean(axis=0), color="black", linewidth=2.4, label=f"mean {lines.mean():.2f}")
        handles, labels = axes.get_legend_handles_labels()
        first = 0 if few else len(handles) - 1
        axes.legend(handles[first:], labels[first:], fontsize=8, loc="lower left", framealpha=0.85)
        axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=f"IoU {threshold:g}")
        axes.grid(alpha=0.3)
    _save(figure, path)


def plot_class_ap(per_class: Sequence[dict[str, Any]], path: str | Path, metric: str = "AP") -> None:
    """A bar per class by falling `metric` (a key of the rows), with the number of objects; "n/a" where it is None."""
    rows = sorted(per_class, key=lambda row: (row[metric] is None, -(row[metric] or 0.0)))
    figure = _figure((7, 1.2 + 0.26 * max(len(rows), 3)))
    if not rows:
        _say(figure, "no classes")
    else:
        axes = figure.add_subplot()
        values = [row[metric] or 0.0 for row in rows]
        axes.barh(range(len(rows)), values, color="#4878b0", height=0.7)
        for place, row in enumerate(rows):
            text = "n/a" if row[metric] is None else f"{row[metric]:.3f}"
            axes.text(values[place] + 0.008, place, text, va="center", fontsize=8)
        names = [f"{_plain(row['name'])} ({row['num_ground_truth']})" for row in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=8)
        axes.set(xlim=(0, 1.08), ylim=(len(rows) - 0.4, -0.6), xlabel=metric, title=f"{metric} by class (objects)")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def save_comparison_grid(
    comparisons: Sequence[Comparison],
    path: str | Path,
    *,
    class_names: Sequence[str] = (),
    columns: int = 2,
    cell: int = 360,
    score_threshold: float = 0.5,
) -> None:
    """Pairs of pictures, ground truth at the left and detections from `score_threshold` on at the right.

    `columns` pairs to a row, each picture scaled to fit `cell` x `cell` pixels. Without comparisons nothing is drawn
    but a line that says so.
    """
    pairs = [_pair(comparison, tuple(class_names), cell, score_threshold) for comparison in comparisons]
    columns = max(1, min(columns, len(pairs)))
    rows = [pairs[first : first + columns] for first in range(0, len(pairs), columns)]
    heights = [max(pair.height for pair in row) for row in rows] or [cell + _HEADING]
    gap, width = 12, 2 * cell + 4
    sheet = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap * (len(heights) + 1)), "white")
    if not pairs:
        ImageDraw.Draw(sheet).text((gap, gap), "no images to compare", fill="black", font=font(14))
    top = gap
    for row, height in zip(rows, heights, strict=False):
        for column, pair in enumerate(row):
            sheet.paste(pair, (gap + column * (width + gap), top))
        top += height + gap
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def plot_confusion(confusion: Tensor, class_names: Sequence[str], path: str | Path) -> None:
    """A heat map of a confusion matrix (K, K), rows the true classes, colours the share of each row.

    Up to fifty classes are named, and up to twenty have their numbers of images written in. Without images it says so.
    """
    count = len(confusion)
    side = min(16.0, 4.0 + 0.22 * min(count, 50))
    figure = _figure((side + 1, side))
    if not int(confusion.sum()):
        _say(figure, "there are no images")
        return _save(figure, path)
    axes = figure.add_subplot()
    shares = (confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    shown = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="antialiased")
    figure.colorbar(shown, ax=axes, label="share of the images of the true class", shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="true class", title=f"{int(confusion.sum())} images")
    if count <= _MOST_NAMED_CLASSES:
        names = [_plain(name) for name in class_names]
        axes.set_xticks(range(count), names, rotation=90, fontsize=8)
        axes.set_yticks(range(count), names, fontsize=8)
    if count <= _MOST_COUNTED_CLASSES:
        for row, column in confusion.nonzero().tolist():
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, int(confusion[row, column]), ha="center", va="center", fontsize=7, color=color)
    _save(figure, path)


def save_mistakes_grid(
    mistakes: Sequence[Mistake], path: str | Path, *, num_images: int, columns: int = 6, cell: int = 180
) -> None:
    """Wrongly classified images below their true and predicted class; `num_images` were classified altogether.

    Each picture is scaled to fit `cell` x `cell` pixels. Without mistakes there is a line that says so.
    """
    cells = [_mistake(mistake, cell) for mistake in mistakes]
    columns, gap = max(1, min(columns, len(cells))), 8
    size_wh = cell + gap, cell + 2 * _HEADING + gap
    rows = max(1, -(-len(cells) // columns))
    sheet = Image.new("RGB", (max(columns, 2) * size_wh[0] + gap, rows * size_wh[1] + gap), "white")
    if not cells:
        ImageDraw.Draw(sheet).text((gap, gap), f"no mistakes in {num_images} images", fill="black", font=font(14))
    for number, picture in enumerate(cells):
        sheet.paste(picture, (gap + number % columns * size_wh[0], gap + number // columns * size_wh[1]))
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _mistake(mistake: Mistake, cell: int) -> Image.Image:
    """One picture below two lines of text."""
    sheet = Image.new("RGB", (cell, cell + 2 * _HEADING), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((0, 2), printable(f"true: {mistake.true_name}"), fill="black", font=font(13))
    found = f"found: {mistake.probability:.2f} {mistake.predicted_name}"  # the cell may cut off a long name
    pen.text((0, 2 + _HEADING), printable(found), fill=(190, 0, 0), font=font(13))
    picture = to_pil(mistake.image)
    scale = cell / max(picture.size)
    size_wh = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    sheet.paste(picture.resize(size_wh, Image.Resampling.LANCZOS), (0, 2 * _HEADING))
    return sheet


def _pair(comparison: Comparison, class_names: tuple[str, ...], cell: int, score_threshold: float) -> Image.Image:
    """One pair of pictures below its headings."""
    boxes, labels, found = comparison.true_boxes_xyxy, comparison.true_labels, comparison.detections
    names = class_names or found.class_names
    truth = Detections(boxes, torch.ones(len(boxes)), labels, names)
    found = replace(found[found.scores >= score_threshold], class_names=names)
    picture = to_pil(comparison.image)
    left = _half(picture, truth, cell, f"{comparison.title}  truth: {len(truth)}", with_scores=False)
    right = _half(picture, found, cell, f"found: {len(found)} (score ≥ {score_threshold:g})", with_scores=True)
    sheet = Image.new("RGB", (2 * cell + 4, max(left.height, right.height)), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (cell + 4, 0))
    return sheet


def _half(picture: Image.Image, shown: Detections, cell: int, heading: str, with_scores: bool) -> Image.Image:
    """A heading and the picture scaled to the cell; boxes are drawn last, so that lines and text keep their size."""
    scale = cell / max(picture.size)
    size_wh = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    boxes = scale_boxes(shown.boxes_xyxy, picture.size[::-1], size_wh[::-1])
    resized = picture.resize(size_wh, Image.Resampling.LANCZOS)
    scores = shown.scores.tolist() if with_scores else None
    sheet = Image.new("RGB", (cell, size_wh[1] + _HEADING), "white")
    ImageDraw.Draw(sheet).text((0, 2), printable(heading.strip()), fill="black", font=font(13))
    sheet.paste(draw_boxes(resized, boxes, shown.names(), scores, shown.labels.tolist()), (0, _HEADING))
    return sheet


def _envelope(curve: PrecisionRecall) -> np.ndarray:
    """Precision at 101 recalls: the best that any recall at least as high has; 0 beyond the last."""
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return np.append(best, 0.0)[np.searchsorted(curve.recall, _RECALL, side="left")]


def _figure(size: tuple[float, float]) -> Any:
    # Without pyplot: no global state, no display, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _say(figure: Any, message: str) -> None:
    figure.text(0.5, 0.5, message, ha="center", va="center", fontsize=12)


def _save(figure: Any, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _plain(name: str) -> str:
    """A name as matplotlib shows it: "$" would start a formula."""
    return printable(name, 40).replace("$", r"\$")


def _unit(color: tuple[int, int, int]) -> tuple[float, float, float]:
    return color[0] / 255, color[1] / 255, color[2] / 255
