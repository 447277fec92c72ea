"""The picture of a learning-rate sweep."""

from collections.abc import Mapping
from pathlib import Path

from detres.engine.lr_finder import Sweep
from detres.files.atomic_file import atomic_path


def draw_sweep(sweep: Sweep, marks: Mapping[str, float], output: str | Path, *, title: str, xlabel: str) -> Path:
    """Draw loss against rate into `output`, with a line at each of `marks`, rates by their names."""
    # Without pyplot: no global state, no display, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(sweep.rates, sweep.losses, color="tab:gray", linewidth=0.8, alpha=0.7, label="loss")
    axes.plot(sweep.rates, sweep.smoothed, color="black", linewidth=1.8, label="averaged with its neighbours")
    for number, (name, rate) in enumerate(marks.items()):
        axes.axvline(rate, color=f"C{number}", linestyle="--", label=f"{name}: {rate:.2g}")
    axes.set(xscale="log", xlabel=xlabel, ylabel="loss", title=title.replace("$", r"\$"))
    if sweep.losses:
        start, end = min(sweep.losses), max(sweep.smoothed[: max(len(sweep.losses) // 2, 1)])
        margin = max(0.5 * (end - start), 0.05 * abs(end))
        axes.set(ylim=(start - 0.2 * margin, end + margin))  # where it breaks out would flatten the rest
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, framealpha=0.85)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=120)
    return Path(output)
