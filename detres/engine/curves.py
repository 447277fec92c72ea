"""The curves of a run, drawn from its metrics.jsonl."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detres.engine.metrics_log import read_metrics

_BY_SIZE = ("APs", "APm", "APl")


def draw_curves(run: str | Path, output: str | Path | None = None) -> Path:
    """Draw losses, learning rate and metrics of the run directory `run` into `output` (default: run/curves.png).

    Raises FileNotFoundError when the run has not written any metrics.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    run = Path(run)
    rows = read_metrics(run / "metrics.jsonl")
    if not rows:
        raise FileNotFoundError(f"{run / 'metrics.jsonl'} has no rows: curves need a run that has trained")
    train = [row for row in rows if row["kind"] == "train"]
    val = [row for row in rows if row["kind"] == "val"]
    figure, (losses, metrics, rate) = plt.subplots(
        3, 1, sharex=True, figsize=(9, 9), height_ratios=(3, 3, 1), layout="constrained"
    )
    _draw_losses(losses, train, val)
    _draw_metrics(metrics, train, val)
    _plot(rate, train, "lr", label="", color="tab:gray")
    rate.set(ylabel="learning rate", xlabel="step")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    for axes in (losses, metrics, rate):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(run.resolve().name)
    output = run / "curves.png" if output is None else Path(output)
    figure.savefig(output, dpi=120)
    plt.close(figure)
    return output


def _draw_losses(axes: Any, train: Sequence[dict[str, Any]], val: Sequence[dict[str, Any]]) -> None:
    terms = _names(train, lambda name: name.startswith("loss_"))
    _plot(axes, train, "loss", label="loss", color="black", linewidth=1.8)
    for index, term in enumerate(terms if len(terms) > 1 else []):
        _plot(axes, train, term, label=term.removeprefix("loss_"), color=f"C{index}", linewidth=1.0)
    _plot(axes, val, "val_loss", label="validation loss", color="black", linestyle="--", marker="o", markersize=3)
    axes.set(ylabel="loss", ylim=(0, None))
    _legend(axes)


def _draw_metrics(axes: Any, train: Sequence[dict[str, Any]], val: Sequence[dict[str, Any]]) -> None:
    """The few metrics that fit one look: without losses, recalls and those by object size."""
    names = _names(val, lambda name: not name.startswith(("val_", "AR", "loss")) and name not in _BY_SIZE)
    accuracy = [{**row, "accuracy": 1 - row["error_top1"]} for row in train if "error_top1" in row]
    _plot(axes, accuracy, "accuracy", label="top1 in training", color="tab:gray", linewidth=1.0)
    for name in names[:6]:
        _plot(axes, val, name, label=name, marker="o", markersize=3)
    axes.set(ylabel="metric", ylim=(0, None))
    if names:
        _legend(axes)
    else:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", va="center", color="gray")


def _legend(axes: Any) -> None:
    """Beside the axes, where it cannot hide a curve."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _plot(axes: Any, rows: Sequence[dict[str, Any]], name: str, **style: Any) -> None:
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _names(rows: Sequence[dict[str, Any]], wanted: Callable[[str], bool]) -> list[str]:
    """The names of values in the order in which they first appear."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ("kind", "step"))
    return [name for name in names if wanted(name)]
