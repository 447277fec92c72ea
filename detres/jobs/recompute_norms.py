"""The job that recomputes a checkpoint's batch norm statistics over its training set (ResNet paper, appendix A)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from detres import wiring
from detres.api import choose_device
from detres.config import Config, config_from_dict, config_to_dict
from detres.engine.checkpoint import save_checkpoint
from detres.engine.norm_statistics import recompute_norm_statistics
from detres.engine.progress import build_reporter
from detres.files.atomic_file import require_writable
from detres.jobs.evaluate import Evaluator, show

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Recomputed:
    """How many images the statistics are of, and the validation metrics before and after, where asked for."""

    num_images: int
    before: Metrics | None
    after: Metrics | None

    def describe(self) -> str:
        """The metrics, one line each: name, before, after."""
        before, after = self.before or {}, self.after or {}
        return "\n".join(f"{name:<8} {_number(before[name])} -> {_number(after[name])}" for name in after)


def recompute_norms(
    weights: str | Path,
    output: str | Path,
    *,
    images: int | None = None,
    evaluate: bool = False,
    overrides: Sequence[str] = (),
    trust_code: bool = False,
) -> Recomputed:
    """Write to `output` the checkpoint `weights` with batch norm statistics over `images` training images.

    They come as in training, transforms included; None: as many as the set has. A checkpoint's averaged weights are
    taken where it has them. `overrides` change its configuration for this job (data.workers=4, device=cpu).
    `trust_code`: whether the checkpoint may name classes of somebody's, which are then imported and called.
    Raises ValueError for weights, data and overrides that do not fit, before anything is computed.
    """
    output = Path(output)
    if output.resolve() == Path(weights).resolve():
        raise ValueError(f"--output: {output} is the checkpoint that is read; give the new one another name")
    if images is not None and images < 1:
        raise ValueError(f"--images: got {images}, expected at least 1")
    require_writable(output.parent, "choose another one by --output")
    model, stored, names = wiring.model_from_checkpoint(weights, trust_code=trust_code)
    config = _with_overrides(stored, overrides, weights)
    if not trust_code:
        wiring.refuse_named_code(config, weights, data=True)
    device = choose_device(config.device)
    model = model.to(device)
    dataset = wiring.build_train_dataset(config)
    if dataset.class_names != names:
        raise ValueError(f"data.train: its classes are not those of {weights}; use the set that it was trained on")
    evaluator = Evaluator(config, wiring.build_eval_dataset(config, names), device) if evaluate else None
    before = _evaluated(evaluator, model)
    num_images = _recompute(model, config, dataset, images or len(dataset), device)
    after = _evaluated(evaluator, model)
    _save(output, model, stored, names, after)
    return Recomputed(num_images, before, after)


def _with_overrides(stored: Config, overrides: Sequence[str], source: str | Path) -> Config:
    if changed := [text for text in overrides if text.startswith(("model.", "model="))]:
        raise ValueError(f"{changed[0]}: the network of a checkpoint cannot be changed; override data, eval or device")
    return config_from_dict(config_to_dict(stored), str(source), overrides)


def _recompute(model: nn.Module, config: Config, dataset: wiring.AnyDataset, images: int, device: torch.device) -> int:
    loader = wiring.build_train_loader(config, dataset, pin_memory=device.type == "cuda")
    size = config.train.images_per_step // config.train.accumulate
    count = -(-images // size)
    stream = loader.stream(0)
    show(f"recomputing batch norm statistics over {count * size} training images, {size} at a time")
    try:
        with build_reporter(count * size) as reporter:
            return recompute_norm_statistics(
                model,
                islice(stream, count),
                device=device,
                precision=config.train.precision,
                progress=reporter.advance,
            )
    finally:
        stream.close()  # type: ignore[attr-defined]  # a generator: ends its workers


def _evaluated(evaluator: Evaluator | None, model: nn.Module) -> Metrics | None:
    if evaluator is None:
        return None
    with build_reporter(len(evaluator.dataset) * evaluator.passes) as reporter:
        return dict(evaluator(model.eval(), reporter.advance).metrics.metrics)


def _save(path: Path, model: nn.Module, config: Config, names: Sequence[str], metrics: Metrics | None) -> None:
    state = {
        "kind": config.kind,
        "config": config_to_dict(config),
        "class_names": list(names),
        "model": {key: tensor.cpu() for key, tensor in model.state_dict().items()},
        "ema": None,  # the model's weights are the averaged ones already
        "metrics": metrics,
    }
    save_checkpoint(path, state)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
