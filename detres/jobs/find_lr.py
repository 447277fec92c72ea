"""The learning-rate finder's job: a short training that only looks for the rate, and writes no run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detres import wiring
from detres.api import choose_device
from detres.config import Config, LoadedConfig
from detres.engine.lr_curve import draw_sweep
from detres.engine.lr_finder import Sweep, exponential_rates, sweep_learning_rates
from detres.engine.progress import build_reporter
from detres.engine.train_step import TrainStep
from detres.files.atomic_file import require_writable, write_text_atomically
from detres.jobs.batch_size import with_batch_size
from detres.jobs.evaluate import show
from detres.jobs.preparation import load_start, open_train_set, optimizer_of, scale, trainer_settings

BOUNDS = {"sgd": (1e-5, 10.0), "adamw": (1e-6, 1.0)}
"""Where a sweep begins and ends by default; it usually diverges before the end."""

STEEPEST, TENTH = "steepest descent", "tenth of the lowest"


@dataclass(frozen=True)
class FoundRates:
    """The sweep and what it suggests for train.optimizer.lr, by the names above; nothing when the loss never fell.

    `batch_size` is the one that such a rate belongs to: the reference batch, where there is one. `applied` is the
    share of it with which the optimizer worked, at the batch of `images_per_step`.
    """

    sweep: Sweep
    suggestions: dict[str, float]
    batch_size: int
    images_per_step: int
    applied: float
    written: list[Path]

    def describe(self) -> str:
        """What to print: the suggestions, why the sweep ended, and the batch that the rates belong to."""
        done = f"{len(self.sweep.losses)} of {self.sweep.planned} rates: {self.sweep.ended}"
        lines = [f"  {name:<20} {rate:.2g}" for name, rate in self.suggestions.items()]
        if not lines:
            lines = ["no suggestion: the loss did not fall first; look at the picture, then change --from and --to"]
        elif self.sweep.is_noisy():
            lines.append("caution: the loss fell by little more than its noise; more --steps show the rate better")
        belongs = f"values of train.optimizer.lr for batches of {self.batch_size} images"
        if self.images_per_step != self.batch_size:
            belongs += f" (reference_batch_size); at {self.images_per_step}, the optimizer got {self.applied:g} of them"
        return "\n".join([done, *lines, belongs])


def find_lr(
    loaded: LoadedConfig,
    output: str | Path | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    steps: int = 100,
    stop_above: float = 4.0,
) -> FoundRates:
    """Train `steps` steps of the configured run with rates from `low` to `high`, values of train.optimizer.lr.

    Model, weights, data, optimizer groups, precision and accumulation are those of the run; its schedule, warm-up and
    weight average are left out. Writes find_lr.png and find_lr.json into `output` (runs/find_lr_NAME). The defaults of
    `low` and `high` go by the optimizer.
    """
    bounds = BOUNDS[loaded.config.train.optimizer.type]
    low, high = (given if given is not None else bound for given, bound in zip((low, high), bounds, strict=True))
    rates = exponential_rates(low, high, steps)
    if stop_above <= 1:
        raise ValueError(f"stop_above: got {stop_above:g}, expected more than 1: a multiple of the lowest loss")
    folder = Path(output) if output is not None else Path("runs") / f"find_lr_{loaded.name}"
    require_writable(folder, "choose another one by --output")
    device = choose_device(loaded.config.device)
    train_set = open_train_set(loaded.config)
    config = with_batch_size(loaded, train_set, device).config
    model = wiring.build_model(config, len(train_set.class_names))
    load_start(model, config, train_set)
    loader = wiring.build_train_loader(config, train_set, pin_memory=device.type == "cuda")
    applied = scale(config, loader.steps_per_epoch).lr / config.train.optimizer.lr
    # The rates are multiples of the optimizer's own: with this one, they are values of the setting.
    optimizer = optimizer_of(config, model.to(device).train(), lr=applied)
    step = TrainStep(model, optimizer, trainer_settings(config, steps), device)
    stream = loader.stream(0)
    show(f"sweeping train.optimizer.lr from {rates[0]:g} to {rates[-1]:g} in {steps} steps on {device}")
    try:
        with build_reporter(steps) as reporter:
            options: dict[str, Any] = {"advance": reporter.advance, "message": reporter.message}
            sweep = sweep_learning_rates(step, stream, rates, stop_above=stop_above, **options)
    finally:
        stream.close()  # type: ignore[attr-defined]  # a generator: ends its workers
    return _write(sweep, config, applied, folder, loaded.name)


def suggest(sweep: Sweep) -> dict[str, float]:
    """The rates that a sweep speaks for, by name."""
    steepest, lowest = sweep.steepest(), sweep.lowest()
    if steepest is None or lowest is None:
        return {}
    return {STEEPEST: sweep.rates[steepest], TENTH: sweep.rates[lowest] / 10}


def _write(sweep: Sweep, config: Config, applied: float, folder: Path, name: str) -> FoundRates:
    settings, suggestions = config.train, suggest(sweep)
    batch_size = settings.reference_batch_size or settings.images_per_step
    content = {
        "config": name,
        "optimizer": settings.optimizer.type,
        "suggestions": suggestions,
        "batch_size": batch_size,
        "images_per_step": settings.images_per_step,
        "applied": applied,
        "ended": sweep.ended,
        "planned": sweep.planned,
        "points": [
            {"lr": rate, "loss": loss, "smoothed": smoothed}
            for rate, loss, smoothed in zip(sweep.rates, sweep.losses, sweep.smoothed, strict=True)
        ],
    }
    write_text_atomically(folder / "find_lr.json", json.dumps(content, indent=2) + "\n")
    label = f"train.optimizer.lr, for batches of {batch_size} images"
    picture = draw_sweep(sweep, suggestions, folder / "find_lr.png", title=f"{name}: {sweep.ended}", xlabel=label)
    written = [picture, folder / "find_lr.json"]
    return FoundRates(sweep, suggestions, batch_size, settings.images_per_step, applied, written)
