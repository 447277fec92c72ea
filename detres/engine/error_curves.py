"""Training and validation error against iterations, run beside run: figures 1, 4 and 6 of the ResNet paper."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from detres.engine.metrics_log import read_metrics
from detres.files.atomic_file import atomic_path
from detres.files.plain_text import printable

_LONG = 20_000  # iterations from which the axis counts in units of 1e4, as in the paper


class Curve(NamedTuple):
    """Errors in percent, and the step of each."""

    steps: tuple[int, ...]
    percent: tuple[float, ...]

    def smoothed(self) -> "Curve":
        """Each value averaged with its neighbours, a hundredth of the curve in all; fewer of them at the ends."""
        reach = len(self.steps) // 200
        means = []
        for i in range(len(self.steps)):
            near = min(reach, i, len(self.steps) - 1 - i)  # the same number on both sides, so that nothing shifts
            window = self.percent[i - near : i + near + 1]
            means.append(sum(window) / len(window))
        return Curve(self.steps, tuple(means))


@dataclass(frozen=True)
class RunErrors:
    """The errors of one run: of the training batches, augmented as they were, and of the validation set."""

    label: str
    run: Path
    train: Curve
    val: Curve

    def summary(self) -> dict[str, Any]:
        """What a table says of the run. The training error is the mean over the last hundredth of the run's rows."""
        last = self.train.percent[-max(1, len(self.train.percent) // 100) :]
        best = min(zip(self.val.percent, self.val.steps, strict=True), default=(None, None))
        return {
            "run": self.label,
            "steps": max([*self.train.steps, *self.val.steps]),
            "train error": sum(last) / len(last) if last else None,
            "val error": self.val.percent[-1] if self.val.percent else None,
            "best val error": best[0],
            "at step": best[1],
        }


def read_errors(run: str | Path, label: str | None = None) -> RunErrors:
    """The top-1 errors in the metrics.jsonl of a classifier's run directory, of a run that still trains too.

    `label` is by default the folder's name. Raises FileNotFoundError when there is no such folder or nothing has been
    logged in it, and ValueError when what was logged is of a detector.
    """
    run = Path(run)
    if not run.is_dir():
        others = sorted(path.parent.name for path in run.parent.glob("*/metrics.jsonl"))
        found = f"{run.parent} has the runs {', '.join(others[:8])}" if others else f"{run.parent} has no runs"
        raise FileNotFoundError(f"{run} is no folder, expected that of a run; {found}")
    rows = read_metrics(run / "metrics.jsonl")
    if not rows:
        raise FileNotFoundError(f"{run} has no metrics.jsonl with rows in it: expected the folder of a run that trains")
    train = _curve(rows, "train", "error_top1")
    val = _curve(rows, "val", "top1")
    val = Curve(val.steps, tuple(100.0 - accuracy for accuracy in val.percent))
    if not train.steps and not val.steps:
        raise ValueError(
            f"{run / 'metrics.jsonl'}: its {len(rows)} rows have neither error_top1 nor top1; expected the run of a "
            "classifier (tools/pretrain.py); detres draws a detector's curves into curves.png of its run"
        )
    return RunErrors(label or run.resolve().name, run, train, val)


def draw_error_panels(
    panels: Sequence[tuple[str, Sequence[RunErrors]]], output: str | Path, top: float | None = None
) -> Path:
    """Draw the panels (title, runs) side by side on one scale: thin lines for training, bold ones for validation.

    The first run of every panel has the same colour, so has the second, ...: give nets of one depth the same place.
    `top` is where the axis ends, in percent; by default what the runs exceed after their first quarter is cut off.
    """
    # Without pyplot: no global state, no display, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.0 + 4.8 * len(panels), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    runs = [errors for _, panel in panels for errors in panel]
    unit = 10_000 if max(errors.summary()["steps"] for errors in runs) >= _LONG else 1
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, panel) in zip(all_axes, panels, strict=True):
        for number, errors in enumerate(panel):
            _draw_run(axes, errors, f"C{number}", unit)
        axes.set(title=_plain(title), xlabel="iterations (1e4)" if unit > 1 else "iterations", xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelleft=True)
        axes.legend(fontsize=8, title="bold: validation, thin: training", title_fontsize=8, framealpha=0.85)
        axes.set(ylabel="top-1 error (%)", ylim=_limits(runs, top))
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=140)
    return Path(output)


def _curve(rows: Sequence[Mapping[str, Any]], kind: str, name: str) -> Curve:
    """The values of `name`, a share in 0..1, in percent, where they are known."""
    points = [(row["step"], 100.0 * row[name]) for row in rows if row.get("kind") == kind and row.get(name) is not None]
    return Curve(tuple(step for step, _ in points), tuple(percent for _, percent in points))


def _draw_run(axes: Any, errors: RunErrors, color: str, unit: int) -> None:
    train, val = errors.train.smoothed(), errors.val
    axes.plot([step / unit for step in train.steps], train.percent, color=color, linewidth=0.8, alpha=0.8)
    marker = "o" if len(val.steps) < 30 else ""
    axes.plot(
        [step / unit for step in val.steps], val.percent, color=color, linewidth=2.0, marker=marker, markersize=3,
        label=_plain(errors.label),
    )  # fmt: skip


def _limits(runs: Sequence[RunErrors], top: float | None) -> tuple[float, float]:
    """The ends of the axis, in percent and, unless `top` is given, in steps of five."""
    curves = [curve for errors in runs for curve in (errors.train.smoothed(), errors.val) if curve.steps]
    late = [
        percent
        for curve in curves
        for step, percent in zip(*curve, strict=True)
        if step >= curve.steps[-1] / 4  # the last one always is
    ]
    lowest = min(late)
    if top is None:
        top = min(100.0, 5.0 * math.floor(max(late) / 5.0 + 1.0))
    bottom = 0.0 if lowest < 20 else 5.0 * math.floor(lowest / 5.0 - 0.2)
    return (bottom if bottom < top else 0.0), top


def _plain(name: str) -> str:
    """A name as matplotlib shows it: "$" would start a formula, and a label that begins with "_" is left out."""
    text = printable(name, 60).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
