"""The figures of the ResNet paper: errors from the metrics of runs, layer responses from checkpoints."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detres import wiring
from detres.api import choose_device
from detres.classifier import Classifier
from detres.classifier.responses import measured_responses
from detres.config import Config
from detres.data.views import ClassificationSubset
from detres.engine.error_curves import RunErrors, draw_error_panels, read_errors
from detres.engine.progress import build_reporter
from detres.evaluation.inference import classify_all
from detres.evaluation.metrics import format_rows
from detres.files.atomic_file import atomic_path, require_writable, write_text_atomically
from detres.files.plain_text import printable
from detres.jobs.evaluate import image_ids, show

_SUFFIXES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Figure:
    """What a figure shows as a text table, and its files: the picture, and the same numbers as JSON beside it."""

    table: str
    written: list[Path]


@dataclass(frozen=True)
class NetworkResponses:
    """The standard deviation of each 3x3 layer's responses, in the network's order.

    is_plain  whether the network has no shortcuts
    """

    label: str
    checkpoint: str
    num_images: int
    is_plain: bool
    layers: tuple[str, ...]
    std: tuple[float, ...]

    def summary(self) -> dict[str, Any]:
        """What a table says of the network."""
        return {
            "network": self.label,
            "layers": len(self.std),
            "mean std": float(np.mean(self.std)),
            "median std": float(np.median(self.std)),
            "least": min(self.std),
            "most": max(self.std),
        }


def draw_errors(panels: Sequence[tuple[str, Sequence[str]]], output: str | Path, *, top: float | None = None) -> Figure:
    """Error against iterations (figures 1, 4, 6): each panel's title and runs, a run being a folder or `label=folder`.

    Raises ValueError or OSError that names what is no run of a classifier, or cannot be written.
    """
    if not panels:
        raise ValueError("figure errors: no runs given; name run folders such as runs/cifar10_resnet20")
    if empty := [title for title, runs in panels if not runs]:
        raise ValueError(f"figure errors: the panel {empty[0]!r} has no runs; --panel takes a title, then run folders")
    if top is not None and not 0 < top <= 100:
        raise ValueError(f"figure errors: top is {top:g}, expected percent above 0, at most 100")
    output = _check_output(output)
    read = []
    for title, sources in panels:
        named = zip(_labels(sources, lambda path: path.resolve().name), sources, strict=True)
        read.append((title, [read_errors(_split(source)[1], label) for label, source in named]))
    draw_error_panels(read, output, top)
    heading = [{"panel": title} if len(read) > 1 else {} for title, _ in read]
    rows = [head | errors.summary() for head, (_, runs) in zip(heading, read, strict=True) for errors in runs]
    numbers = [{"title": title, "runs": [_errors_as_dict(errors) for errors in runs]} for title, runs in read]
    return Figure(format_rows(rows), [output, _write_json(output, {"figure": "errors", "panels": numbers})])


def draw_responses(
    checkpoints: Sequence[str],
    output: str | Path,
    *,
    num_images: int = 512,
    device: str = "auto",
    trust_code: bool = False,
) -> Figure:
    """Standard deviations of layer responses (figure 7) of classifiers' checkpoints, each a file or `label=file`.

    They are taken over `num_images` images spread evenly over the validation set of each checkpoint's configuration.
    Raises ValueError or OSError that names what is no checkpoint of a classifier, or cannot be written.
    """
    if not checkpoints or num_images < 1:
        raise ValueError(f"figure responses: got {len(checkpoints)} checkpoints and {num_images} images, expected both")
    output = _check_output(output)
    labels = _labels(checkpoints, lambda path: path.resolve().parent.name)
    found = []
    for label, source in zip(labels, checkpoints, strict=True):
        found.append(measure(_split(source)[1], label, num_images, choose_device(device), trust_code))
    _plot_responses(found, output)
    table = format_rows([network.summary() for network in found])
    written = _write_json(output, {"figure": "responses", "networks": [vars(network) for network in found]})
    return Figure(table, [output, written])


def measure(
    checkpoint: str, label: str, num_images: int, device: torch.device, trust_code: bool = False
) -> NetworkResponses:
    """Run the network of a checkpoint over images of its validation set."""
    model, config, class_names = wiring.model_from_checkpoint(checkpoint, trust_code=trust_code)
    if not isinstance(model, Classifier):
        raise ValueError(f"{checkpoint} holds a detector; expected a classifier, as tools/pretrain.py writes them")
    if not trust_code:
        wiring.refuse_named_code(config, checkpoint, data=True)
    dataset = _some_images(config, class_names, num_images)
    show(f"{label}: {checkpoint} on {len(dataset)} validation images")
    loader = wiring.build_eval_loader(config, dataset)
    with build_reporter(len(dataset)) as reporter, measured_responses(model.backbone) as responses:
        classify_all(
            model.to(device), loader, device=device, precision=config.eval.precision, progress=reporter.advance,
            image_ids=image_ids(dataset),
        )  # fmt: skip
        stds = tuple(response.std() for response in responses)
    is_plain = getattr(config.model.backbone, "shortcut", None) == "none"
    return NetworkResponses(
        label, checkpoint, len(dataset), is_plain, tuple(response.name for response in responses), stds
    )


def _some_images(config: Config, class_names: Sequence[str], num_images: int) -> ClassificationSubset:
    """That many images spread evenly over the validation set: sets are often sorted by class."""
    dataset: Any = wiring.build_eval_dataset(config, class_names)
    if not len(dataset):
        raise ValueError("data.val: the validation set has no images to run the network on")
    return ClassificationSubset(dataset, np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round())


def _check_output(output: str | Path) -> Path:
    output = Path(output)
    if output.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"--output {output}: got the suffix {output.suffix!r}, expected {', '.join(_SUFFIXES)}")
    require_writable(output.parent, "choose another one by --output")
    return output


def _split(source: str) -> tuple[str | None, str]:
    """`label=path` -> the two; a path that exists is a path, whatever is in its name."""
    label, equals, path = source.partition("=")
    return (label, path) if equals and label and not Path(source).exists() else (None, source)


def _labels(sources: Sequence[str], by_default: Callable[[Path], str]) -> list[str]:
    """The label of each source: the given one, else by its path; the whole path where that leaves doubt."""
    parts = [_split(source) for source in sources]
    labels = [label or by_default(Path(path)) for label, path in parts]
    return [
        path if own is None and labels.count(label) > 1 else label
        for label, (own, path) in zip(labels, parts, strict=True)
    ]


def _errors_as_dict(errors: RunErrors) -> dict[str, Any]:
    curves = {name: getattr(errors, name)._asdict() for name in ("train", "val")}
    return {**errors.summary(), "folder": str(errors.run), **curves}


def _write_json(picture: Path, content: Mapping[str, Any]) -> Path:
    path = picture.with_suffix(".json")
    write_text_atomically(path, json.dumps(content) + "\n")
    return path


def _plot_responses(networks: Sequence[NetworkResponses], output: Path) -> None:
    """Two panels: the layers in order, and sorted by falling standard deviation. Plain nets are dashed."""
    # Without pyplot: no global state, no display, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(10.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    in_order, by_size = figure.subplots(1, 2, sharey=True)
    for number, network in enumerate(networks):
        style = {"color": f"C{number}", "linestyle": "--" if network.is_plain else "-", "linewidth": 1.4}
        index = range(1, len(network.std) + 1)
        label = printable(network.label, 60).replace("$", r"\$")
        in_order.plot(index, network.std, **style)
        by_size.plot(index, sorted(network.std, reverse=True), label=label, **style)
    in_order.set(xlabel="layer index (original)", ylabel="std of the 3x3 layers' responses")
    by_size.set(xlabel="layer index (sorted by magnitude)")
    by_size.legend(fontsize=8, framealpha=0.85)
    for axes in (in_order, by_size):
        axes.set_ylim(0, None)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=140)
