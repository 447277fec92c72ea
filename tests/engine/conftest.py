"""A model, a loader and a trainer small enough to run hundreds of steps in a test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detres.engine.follower import FollowerDirectory
from detres.engine.optimizer import build_optimizer
from detres.engine.records import TrainerSettings
from detres.engine.run_directory import RunDirectory
from detres.engine.schedule import build_schedule
from detres.engine.trainer import Trainer
from detres.structures import Batch, ImageBatch
from detres.structures.processes import ALONE, Processes

HEADER = {"kind": "classifier", "config": {"train": {"lr": 0.1}}, "class_names": ["a", "b"]}


class TinyModel(nn.Module):
    """Convolution, batch norm, dropout and a linear layer, with two losses: a detector in miniature."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(4, 2)

    def forward(self, images: ImageBatch, targets: Tensor) -> dict[str, Tensor]:
        features = self.bn(self.conv(images.pixels)).relu().mean(dim=(2, 3))
        logits = self.fc(self.drop(features))
        return {
            "loss_cls": nn.functional.cross_entropy(logits, targets),
            "loss_small": 1e-2 * logits.float().square().mean(),
        }


class TinyLoader:
    """Six images, keyed by their position in the run, in parts of `size` images."""

    steps_per_epoch = 3.0

    def __init__(self, size: int = 2, poison: int | None = None, fail: int | None = None) -> None:
        self.size, self.poison, self.fail = size, poison, fail
        self.closed = False

    def stream(self, start_sample: int) -> Iterator[Batch]:
        try:
            while True:
                if self.fail is not None and start_sample >= self.fail:
                    raise RuntimeError("a worker died")
                yield self.batch(start_sample)
                start_sample += self.size
        finally:
            self.closed = True

    def batch(self, start: int) -> Batch:
        numbers = [(start + i) % 6 for i in range(self.size)]
        images = [torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(n)) for n in numbers]
        if self.poison is not None and start <= self.poison < start + self.size:
            images[self.poison - start][0, 0, 0] = float("nan")
        skipped = ("broken.jpg: truncated",) if start % 6 == 0 else ()
        files = [f"image_{n}.jpg" for n in numbers]
        return Batch(ImageBatch.from_images(images), torch.tensor([n % 2 for n in numbers]), numbers, files, skipped)


class Recorder:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.logs: list[tuple[int, dict[str, Any]]] = []
        self.steps: list[int] = []

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, step: int) -> None:
        self.steps.append(step)

    def log(self, step: int, values: Any) -> None:
        self.logs.append((step, dict(values)))

    def message(self, text: str) -> None:
        self.messages.append(text)

    def paused(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads only slow down a model of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_model() -> TinyModel:
    return TinyModel()


@pytest.fixture
def tiny_loader() -> type[TinyLoader]:
    return TinyLoader


@pytest.fixture
def header() -> dict[str, Any]:
    return dict(HEADER)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Trainer(settings of TrainerSettings..., plus folder, resume, loader, schedule, optimizer, evaluate, ...)."""

    def make(
        folder: str = "run",
        resume: bool = False,
        loader: TinyLoader | None = None,
        schedule: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
        evaluate: Any = None,
        validation_loss: Any = None,
        processes: Processes = ALONE,
        **settings: Any,
    ) -> Trainer:
        torch.manual_seed(1)
        model = TinyModel()
        chosen = TrainerSettings(**{"steps": 6, "log_every": 2, **settings})
        options = optimizer or {"type": "sgd", "lr": 0.1, "weight_decay": 1e-4}
        return Trainer(
            model,
            build_optimizer(model, **options),
            build_schedule(**{"type": "cosine", "steps": chosen.steps, "warmup_steps": 2, **(schedule or {})}),
            loader or TinyLoader(),
            RunDirectory(tmp_path / folder, resume=resume)
            if processes.rank == 0
            else FollowerDirectory(tmp_path / folder),
            chosen,
            header=HEADER,
            evaluate=evaluate,
            validation_loss=validation_loss,
            reporter=Recorder(),
            processes=processes,
        )

    return make
