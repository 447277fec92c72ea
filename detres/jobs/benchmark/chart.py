"""One picture of a benchmark: ratios with their spread, and where the time of each side goes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detres.jobs.benchmark.parts import PARTS
from detres.jobs.benchmark.report import is_telling, title


def draw_chart(results: Mapping[str, Any], output: Path) -> None:
    """Left, how many times as fast detres is at each work; right, the parts of both sides, theirs drawn as 100 %."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    works = results["works"]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(14, 1.9 + 1.15 * len(works)), sharey=True, width_ratios=(2, 3), layout="constrained"
    )
    for row, figures in enumerate(works.values()):
        _draw_ratio(left, row, figures["ratio"])
        _draw_parts(right, row, figures)
    _finish(left, right, works)
    handles: dict[str, Any] = {label: handle for handle, label in zip(*right.get_legend_handles_labels(), strict=True)}
    shown = [part for part in PARTS if part in handles]
    figure.legend(
        [handles[part] for part in shown], shown, loc="outside lower center", ncols=8, fontsize=8, frameon=False
    )
    figure.suptitle(_subtitle(results), fontsize=9)
    figure.savefig(output, dpi=120)
    plt.close(figure)


def _draw_ratio(axes: Any, row: int, ratio: Mapping[str, Any]) -> None:
    low, high = ratio["interval"]
    axes.plot([ratio["min"], ratio["max"]], [row, row], color="0.6", linewidth=1.5, zorder=2)
    if is_telling(ratio):
        axes.plot([low, high], [row, row], color="C0", linewidth=6, alpha=0.5, solid_capstyle="butt", zorder=3)
    axes.plot(ratio["each"], [row + 0.13] * len(ratio["each"]), "k.", markersize=3, zorder=4)
    axes.plot(ratio["median"], row, "o", color="C0", markersize=8, zorder=5)
    axes.annotate(
        f"{ratio['median']:.2f} ×",
        (ratio["median"], row),
        (0, 9),
        textcoords="offset points",
        ha="center",
        weight="bold",
    )


def _draw_parts(axes: Any, row: int, figures: Mapping[str, Any]) -> None:
    sides = list(figures["parts"])
    whole = figures["seconds"][sides[0]]["median"]
    for place, side in zip((row - 0.2, row + 0.2), sides, strict=True):
        parts, start = figures["parts"][side], 0.0
        # The passes with clocks in between take a little longer than those that count.
        scale = 100 * figures["seconds"][side]["median"] / (whole * sum(max(0.0, each) for each in parts.values()))
        for index, part in enumerate(PARTS):
            if part in parts:
                width = scale * max(0.0, parts[part])
                axes.barh(place, width, left=start, height=0.34, color=_color(index), label=part)
                start += width
        axes.annotate(
            f"{side}, {_seconds(figures['seconds'][side]['median'])}{_share(figures, side)}",
            (start, place), (4, 0), textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip


def _finish(left: Any, right: Any, works: Mapping[str, Any]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    left.set_yticks(range(len(works)), [_label(work, figures) for work, figures in works.items()], fontsize=8)
    left.set_ylim(len(works) - 0.45, -0.6)
    left.axvline(1.0, color="0.3", linewidth=1, linestyle="--")
    if max(figures["ratio"]["max"] for figures in works.values()) > 10:
        left.set_xscale("log")
        left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.xaxis.set_major_formatter("{x:g}")
        left.xaxis.set_minor_formatter(NullFormatter())
    else:
        left.set_xlim(0, None)
    left.set_xlabel("times as fast: median, its interval (band), every repeat (dots) and extremes (line)", fontsize=8)
    right.set_xlabel("time by part, in % of the other side's", fontsize=8)
    right.set_xlim(0, 150)
    right.set_xticks(range(0, 101, 25))
    for axes in (left, right):
        axes.set_axisbelow(True)
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)


def _color(index: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["tab20"](index % 20)


def _label(work: str, figures: Mapping[str, Any]) -> str:
    return title(work, figures).replace(", ", "\n", 1).replace(", input", "\ninput")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _share(figures: Mapping[str, Any], side: str) -> str:
    return f", {figures['ceiling_share'][side]:.0%} of the ceiling" if "ceiling_share" in figures else ""


def _subtitle(results: Mapping[str, Any]) -> str:
    settings, works = results["settings"], results["works"].values()
    sides = {side: how for figures in works for side, how in figures.get("sides", {}).items() if "precision" in how}
    contest = " against ".join(f"{side} ({how['precision']}, {how['mode']})" for side, how in reversed(sides.items()))
    malloc = {"own": "malloc tuned for detres only", "default": "malloc's defaults", "tuned": "malloc tuned for both"}
    machine = (
        f"{malloc[settings['allocator']]}, {settings['processor']}, {settings['device']}, "
        f"{settings['threads']} threads, torch {settings['torch']}"
    )
    return f"{contest}; {machine}" if contest else machine
