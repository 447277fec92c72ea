"""Pretraining compared: detres's own training loop against a plain torchvision one, from the same files.

Shapes: N images of a batch, S side of the square that they are cropped to.
"""

import gc
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detres import wiring
from detres.config import Config, config_from_dict
from detres.engine.optimizer import build_optimizer
from detres.engine.progress import SilentReporter
from detres.engine.records import TrainerSettings
from detres.engine.run_directory import RunDirectory
from detres.engine.schedule import build_schedule
from detres.engine.trainer import Trainer
from detres.jobs.benchmark.agreement import DifferentWork
from detres.jobs.benchmark.conditions import OURS, Conditions
from detres.jobs.benchmark.timing import Side, clock, ratio, summary
from detres.structures.image_batch import ImageBatch
from detres.weights.torchvision_names import classifier_from_torchvision

MODEL = "ResNet-18, random weights"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}


class Pretraining:
    """Both sides: the images of `folder` (root/<class>/<image>), cropped at random to S x S, mirrored, normalised.

    theirs, their_loader  torchvision's resnet18, and a DataLoader over its ImageFolder
    ours, our_loader      the same as a configuration describes it, with the same weights
    Raises DatasetError for a folder without images, DifferentWork when the sides see other data.
    """

    def __init__(self, folder: Path, size: int, batch_size: int, workers: int, device: torch.device) -> None:
        from torchvision.models import resnet18

        self.config, self.device = _config(folder, size, batch_size, workers), device
        dataset = wiring.build_train_dataset(self.config)
        names = dataset.class_names
        self.our_loader = wiring.build_train_loader(self.config, dataset, pin_memory=device.type == "cuda")
        self.their_loader = _their_loader(folder, size, batch_size, workers, device)
        theirs = cast(Any, self.their_loader.dataset)
        if (len(theirs), list(theirs.classes)) != (len(dataset), list(names)):
            raise DifferentWork(
                f"{folder}: torchvision finds {len(theirs)} images of {len(theirs.classes)} classes, detres "
                f"{len(dataset)} of {len(names)}; expected the same: give a folder of JPEG or PNG images"
            )
        if len(dataset) < batch_size:
            raise ValueError(f"{folder}: {len(dataset)} images are less than a batch of {batch_size}; lower the batch")
        torch.manual_seed(self.config.seed)
        self.theirs = resnet18(num_classes=len(names)).to(device)
        self.ours = wiring.build_model(self.config, len(names)).to(device)
        self.ours.load_state_dict(classifier_from_torchvision(self.theirs.state_dict()))

    def check_same_work(self) -> dict[str, Any]:
        """The loss of both sides for the same batch in training mode. Raises DifferentWork beyond 1e-5."""
        stream = self.our_loader.stream()
        batch = next(stream).to(self.device)
        cast(Any, stream).close()
        targets = cast(Tensor, batch.targets)
        with torch.no_grad():
            theirs = float(F.cross_entropy(self.theirs.train()(_their_pixels(batch.images)), targets))
            ours = float(self.ours.train()(batch.images, targets)["loss_cls"])
        if not abs(ours - theirs) <= 1e-5 * abs(theirs):
            raise DifferentWork(f"loss: torchvision computes {theirs:.7g}, detres {ours:.7g}; expected 1e-5 or closer")
        return {"loss": {"torchvision": theirs, "detres": ours}}

    def compare(self, steps: int, conditions: Conditions) -> dict[str, Any]:
        """Seconds of a step of both loops, `steps` of one and of the other in turns, after one unmeasured round.

        The ratio is taken within each pair of neighbours in time. Parts: waiting for the loader, and all the rest.
        """
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(_their_loop(self.theirs, self.their_loader, self.device)) as theirs,
        ):
            turns = _Turns(theirs, steps, conditions)
            _make_trainer(self, (conditions.repeats + 1) * steps, steps, Path(folder) / "run", turns).run()
        return turns.figures()


class _Turns(SilentReporter):
    """Hears of every step of our trainer; after every `steps` of them, torchvision's loop takes its turn."""

    def __init__(self, theirs: Iterator[float], steps: int, conditions: Conditions) -> None:
        self._theirs, self._steps, self._conditions = theirs, steps, conditions
        self._device = conditions.device
        self.seconds: dict[str, list[float]] = {"torchvision": [], "detres": []}
        self.loading: dict[str, list[float]] = {"torchvision": [], "detres": []}
        self._started = 0.0

    def __enter__(self) -> "_Turns":
        self._conditions.take_allocator(OURS)
        self._started = clock(self._device)
        return self

    def advance(self, step: int) -> None:
        """Time what the trainer did since its last turn, then as many steps of theirs."""
        if step % self._steps:
            return
        self.seconds["detres"].append(clock(self._device) - self._started)
        self._conditions.take_allocator("torchvision")
        gc.collect()
        started = clock(self._device)
        self.loading["torchvision"].append(sum(next(self._theirs) for _ in range(self._steps)))
        self.seconds["torchvision"].append(clock(self._device) - started)
        if (done := step // self._steps - 1) > 0:
            latest = ", ".join(f"{name} {each[-1] / self._steps:.3f} s" for name, each in self.seconds.items())
            self._conditions.progress(f"  {done}/{self._conditions.repeats}: {latest} a step")
        self._conditions.take_allocator(OURS)
        gc.collect()
        self._started = clock(self._device)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """The trainer's own account of how long it waited for its loader."""
        if step % self._steps == 0:
            share, seconds = values["loading_share"], values["seconds_per_step"]
            assert share is not None and seconds is not None
            self.loading["detres"].append(share * seconds * self._steps)

    def figures(self) -> dict[str, Any]:
        """Seconds of a step, ratio and parts, without the first turns."""
        spread, parts = {}, {}
        for name, turns in self.seconds.items():
            spread[name] = summary([seconds / self._steps for seconds in turns[1:]])
            loading = summary(self.loading[name][1:])["median"] / self._steps
            parts[name] = {"loading": loading, "learning": max(0.0, spread[name]["median"] - loading)}
        both = ratio(spread["torchvision"]["each"], spread["detres"]["each"])
        sides = {name: {"allocator": self._conditions.allocator_of(name)} for name in parts}
        return {"sides": sides, "seconds": spread, "ratio": both, "parts": parts}


def pipelines(pretraining: Pretraining, conditions: Conditions) -> dict[str, Side]:
    """Both sides at their input alone: one step is one batch (N, 3, S, S), read, cropped and normalised.

    Raises DifferentWork when they do not give the same form.
    """
    theirs, ours = _their_batches(pretraining), _our_batches(pretraining)
    forms = [(tuple(batch.shape), batch.dtype) for batch in (next(theirs), next(ours))]
    if forms[0] != forms[1]:
        raise DifferentWork(f"batches: torchvision gives {forms[0]}, detres {forms[1]}")
    return {
        "torchvision": Side(lambda _lap: _take(theirs), allocator=conditions.allocator_of("torchvision")),
        OURS: Side(lambda _lap: _take(ours), allocator=conditions.allocator_of(OURS)),
    }


def _take(batches: Iterator[Tensor]) -> None:
    next(batches)


def _their_batches(pretraining: Pretraining) -> Iterator[Tensor]:
    while True:
        for images, _ in pretraining.their_loader:
            yield images


def _our_batches(pretraining: Pretraining) -> Iterator[Tensor]:
    """Normalising, which is the first step of our model, counts here."""
    for batch in pretraining.our_loader.stream():
        yield cast(Any, pretraining.ours).pixels(batch.images)


def _config(folder: Path, size: int, batch_size: int, workers: int) -> Config:
    """A plain ImageNet training: the crops of Szegedy et al., SGD with momentum."""
    images = {"type": "image_folder", "root": str(folder.resolve())}
    pixels = {"mean": [255 * m for m in MEAN], "std": [255 * s for s in STD], "size_divisibility": 1}
    return config_from_dict(
        {
            "model": {"type": "classifier", "backbone": {"type": "resnet", "depth": 18}, "pixels": pixels},
            "data": {
                "train": images,
                "val": images,
                "train_transforms": [{"type": "random_resized_crop", "size": size}, {"type": "horizontal_flip"}],
                "workers": workers,
            },
            "train": {
                "batch_size": batch_size,
                "steps": 1,
                "optimizer": {"type": "sgd", **_SGD},
                "schedule": {"type": "constant"},
            },
            "eval": {"metric": "classification"},
        },
        "the benchmark's configuration",
    )


def _their_loader(
    folder: Path, size: int, batch_size: int, workers: int, device: torch.device
) -> torch.utils.data.DataLoader[Any]:
    """torchvision's reference pipeline (references/classification, the original recipe)."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    tensors = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return torch.utils.data.DataLoader(
        ImageFolder(str(folder), transforms.Compose([*steps, *tensors])),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        drop_last=True,
    )


def _their_loop(model: nn.Module, loader: Any, device: torch.device) -> Generator[float, None, None]:
    """The training loop of torch's tutorials; every next() is one step and tells the seconds spent on loading."""
    optimizer = torch.optim.SGD(model.parameters(), **cast(Any, _SGD))
    model.train()
    while True:
        batches = iter(loader)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            loading = time.perf_counter() - started
            images, labels = (part.to(device, non_blocking=True) for part in batch)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loading


def _make_trainer(pretraining: Pretraining, steps: int, log_every: int, folder: Path, turns: _Turns) -> Trainer:
    """The trainer of `detres pretrain`, without evaluations and with one checkpoint, at the end."""
    model = pretraining.ours
    return Trainer(
        model,
        build_optimizer(model, **pretraining.config.train.optimizer.model_dump()),
        build_schedule(type="constant", steps=steps),
        pretraining.our_loader,
        RunDirectory(folder),
        TrainerSettings(steps=steps, log_every=log_every, checkpoint_every=steps, keep_checkpoints=0),
        header={"kind": "classifier", "config": {}, "class_names": []},
        device=pretraining.device,
        reporter=turns,
    )


def _their_pixels(images: ImageBatch) -> Tensor:
    """What ToTensor and Normalize make of the pixels."""
    from torchvision.transforms.functional import normalize

    return normalize(images.pixels.float() / 255, list(MEAN), list(STD))
