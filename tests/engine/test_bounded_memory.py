"""Two thousand steps with workers hold no more than five hundred do: tensors, objects, files and memory are counted."""

import gc
import multiprocessing
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detres.data.loader import TrainLoader
from detres.data.sampler import TrainSampler
from detres.data.samples import TransformedClassificationDataset
from detres.data.transforms import DetectionTransforms

STEPS, FIRST = 2000, 500
MEGABYTES = 12
"""What a process may grow by between FIRST and STEPS; a batch kept each step would make it 18."""


class Noise:
    """Images out of nowhere."""

    class_names = ("a", "b")

    def __len__(self) -> int:
        return 64

    def image_id(self, index: int) -> int:
        return index

    def file(self, index: int) -> str:
        return f"{index}.png"

    def read(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def label(self, index: int) -> int:
        return index % 2


def _resident_bytes(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _count() -> dict[str, int]:
    gc.collect()
    objects = gc.get_objects()
    return {
        "tensors": sum(isinstance(thing, torch.Tensor) for thing in objects),
        "objects": len(objects),
        "files": len(os.listdir("/proc/self/fd")),
        "processes": len(multiprocessing.active_children()),
    }


def _memory() -> list[int]:
    return [_resident_bytes(p) for p in (os.getpid(), *(child.pid for child in multiprocessing.active_children()))]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts in /proc")
@pytest.mark.parametrize("workers", [2])
def test_a_long_run_grows_by_nothing(make_trainer: Callable[..., Any], workers: int) -> None:
    samples = TransformedClassificationDataset(Noise(), DetectionTransforms([{"type": "horizontal_flip"}]))
    loader = TrainLoader(samples, TrainSampler(64, 4, 0), workers=workers, timeout=60.0)
    trainer = make_trainer(loader=loader, steps=STEPS, eval_every=STEPS, ema_decay=0.9, log_every=100)
    forward = trainer.model.forward
    trainer.model.forward = lambda images, targets: forward(_float(images), targets)
    trainer.step._forward = trainer.model
    counts: dict[int, dict[str, int]] = {}
    memory: dict[int, list[int]] = {}

    def count(step: int) -> None:
        if step in (FIRST, STEPS - 1):
            counts[step], memory[step] = _count(), _memory()

    trainer.reporter.advance = count
    trainer.reporter.log = lambda step, values: None
    trainer.reporter.message = lambda text: None
    trainer.run()
    before, after = counts[FIRST], counts[STEPS - 1]
    assert after["processes"] == before["processes"] == workers
    assert (after["tensors"], after["files"]) == (before["tensors"], before["files"])
    assert after["objects"] - before["objects"] < 1500, "fewer than one a step"
    grown = [(now - then) / 2**20 for then, now in zip(memory[FIRST], memory[STEPS - 1], strict=True)]
    assert max(grown) < MEGABYTES, f"MB by process: {grown}"


def _float(images: Any) -> Any:
    from dataclasses import replace

    return replace(images, pixels=images.pixels.float() / 255)
