"""What a benchmark says: a table to read and a chart."""

from pathlib import Path
from typing import Any

from detres.jobs.benchmark.timing import PARTS

_ALL_PARTS = (*PARTS, "loading", "learning", "conversion", "evaluation")
_SETTINGS = ("torch", "torchvision", "device", "threads", "dtype", "mode", "repeats")


def format_results(results: dict[str, Any]) -> str:
    """Settings, then for each work: agreement, seconds, ratio and parts."""
    settings = results["settings"]
    lines = [settings["model"], ", ".join(f"{name} {settings[name]}" for name in _SETTINGS)]
    for work, figures in results["works"].items():
        lines += ["", _title(work, figures)]
        if figures["same"]:
            lines.append(f"  same on both sides: {_agreement(figures['same'])}")
        lines += [f"  {side:<12} {_spread(seconds)} s" for side, seconds in figures["seconds"].items()]
        if work not in ("infer", "train"):
            lines += [f"  {side:<12} {_images_per_second(figures, side)}" for side in figures["seconds"]]
        sides = list(figures["parts"])
        meaning = f"({sides[0]} / detres; above 1, detres is faster)"
        lines += [f"  {'ratio':<12} {_spread(figures['ratio'])} {meaning}", *_memory(figures), ""]
        lines.append(f"  {'seconds in':<16}" + "".join(f"{side:>13}" for side in sides))
        for part in _ALL_PARTS:
            if part in figures["parts"][sides[0]]:
                lines.append(f"  {part:<16}" + "".join(f"{figures['parts'][side][part]:>13.3f}" for side in sides))
    return "\n".join(lines)


def _memory(figures: dict[str, Any]) -> list[str]:
    known = {side: mib for side, mib in figures.get("memory_mib", {}).items() if mib is not None}
    return [f"  {'memory':<12} {', '.join(f'{side} {mib:.0f} MiB' for side, mib in known.items())}"] if known else []


def _title(work: str, figures: dict[str, Any]) -> str:
    if work == "eval":
        counts = ", ".join(f"{figures[what]} {what}" for what in ("images", "objects", "detections"))
        return f"COCO evaluation, {counts}, input {figures['input']}"
    names = {"infer": "inference", "train": "training step", "pretrain": "pretraining step"}
    name = names.get(work, "input pipeline alone, one thread")
    height, width = figures["size_hw"]
    return f"{name}, {figures['batch_size']} x {height} x {width}, input {figures['input']}"


def _images_per_second(figures: dict[str, Any], side: str) -> str:
    return f"{figures['batch_size'] / figures['seconds'][side]['median']:.0f} images/s"


def _spread(values: dict[str, Any]) -> str:
    return f"median {values['median']:.3f}, {values['min']:.3f} to {values['max']:.3f}"


def _agreement(same: dict[str, Any]) -> str:
    parts = []
    for name, found in same.items():
        if "same" in found:
            parts.append(f"{found['same']:.1%} of {sum(found['per_image'])} {name}")
        if "identical" in found:
            parts.append(f"{found['identical']} {name}, bit for bit")
    losses = [abs(found["detres"] / found["torchvision"] - 1) for found in same.values() if "detres" in found]
    if losses:
        parts.append(f"{len(losses)} {'loss' if len(losses) == 1 else 'losses'} to {max(losses):.0e}")
    return ", ".join(parts)


def draw_chart(results: dict[str, Any], output: Path) -> None:
    """One row per work: each side's seconds by part, and a dot for every repeat."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    works = results["works"]
    figure, rows = plt.subplots(
        len(works), 1, figsize=(10, 1.2 + 2.2 * len(works)), squeeze=False, layout="constrained"
    )
    for axes, (work, figures) in zip(rows[:, 0], works.items(), strict=True):
        _draw_work(axes, figures)
        ratio = figures["ratio"]
        axes.set_title(
            f"{_title(work, figures)}\n"
            f"detres {ratio['median']:.2f} times as fast ({ratio['min']:.2f} to {ratio['max']:.2f})",
            fontsize=10,
            loc="left",
        )
    handles: dict[str, Any] = {}
    for axes in rows[:, 0]:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    rows[-1, 0].set_xlabel("seconds")
    figure.savefig(output, dpi=120)
    plt.close(figure)


def _draw_work(axes: Any, figures: dict[str, Any]) -> None:
    sides = list(figures["seconds"])
    left = [0.0] * len(sides)
    for index, part in enumerate(_ALL_PARTS):
        if part not in figures["parts"][sides[0]]:
            continue
        widths = [max(0.0, figures["parts"][side][part]) for side in sides]
        axes.barh(sides, widths, left=left, height=0.55, color=f"C{index}", label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, side in enumerate(sides):
        each = figures["seconds"][side]["each"]
        axes.plot(each, [row + 0.36] * len(each), "k.", markersize=4, label="repeats" if row == 0 else None)
    axes.invert_yaxis()
    axes.set_xlim(0, None)
    axes.set_axisbelow(True)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
