"""Loaders: the same batches with and without workers, and clear errors when a worker fails, dies or hangs."""

import multiprocessing
import os
import signal
import threading
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detres.data.coco import CocoDataset
from detres.data.image_io import ImageError
from detres.data.loader import EvalLoader, TrainLoader, WorkerError
from detres.data.sampler import TrainSampler
from detres.data.samples import Sample, SampleKey, TransformedDetectionDataset
from detres.data.transforms import DetectionTransforms
from detres.data.views import SubsetDataset
from detres.structures import Batch, GroundTruth

STEPS: list[dict[str, Any]] = [
    {"type": "resize_shortest", "short": [32, 48]},
    {"type": "horizontal_flip"},
    {"type": "albumentations", "name": "RandomBrightnessContrast"},
]


def _samples(dataset: Any) -> TransformedDetectionDataset:
    return TransformedDetectionDataset(dataset, DetectionTransforms(STEPS), 3)


def _loader(samples: TransformedDetectionDataset, **options: Any) -> TrainLoader:
    return TrainLoader(samples, TrainSampler(len(samples), 2, 0), timeout=60.0, **options)


def _same(one: Batch, other: Batch) -> bool:
    assert isinstance(one.targets, GroundTruth) and isinstance(other.targets, GroundTruth)
    return (
        torch.equal(one.images.pixels, other.images.pixels)
        and torch.equal(one.images.sampling_seeds, other.images.sampling_seeds)
        and torch.equal(one.targets.boxes_xyxy, other.targets.boxes_xyxy)
        and one.files == other.files
    )


class _Strange(TransformedDetectionDataset):
    """Samples whose worker does what `act` does."""

    act: Any = None

    def __getitem__(self, key: SampleKey) -> Sample:
        if os.getpid() != _PARENT:
            type(self).act()
        return super().__getitem__(key)


_PARENT = os.getpid()


class _Dying(_Strange):
    act = staticmethod(lambda: os._exit(3))


class _Hanging(_Strange):
    act = staticmethod(lambda: threading.Event().wait())


class _Buggy(_Strange):
    act = staticmethod(lambda: {}["a bug"])


def test_evaluation_of_nothing(coco: CocoDataset) -> None:
    loader = EvalLoader(_samples(SubsetDataset(coco, [])))
    assert len(loader) == 0 and list(loader) == []


def test_workers_change_nothing_and_resuming_is_exact(coco: CocoDataset) -> None:
    samples = _samples(coco)
    alone = list(islice(_loader(samples).stream(), 8))
    stream = _loader(samples, workers=2).stream(start_sample=4)
    try:
        assert all(_same(one, other) for one, other in zip(alone[2:], islice(stream, 6), strict=True))
    finally:
        stream.close()  # type: ignore[attr-defined]
    assert _loader(samples).steps_per_epoch == 3.5


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_in_order_every_time(coco: CocoDataset, workers: int) -> None:
    loader = EvalLoader(_samples(coco), 3, size_divisibility=16, workers=workers, timeout=60.0)
    assert len(loader) == 3
    for _ in range(2):
        batches = list(loader)
        assert [i for batch in batches for i in batch.image_ids] == [1, 2, 3, 4, 5, 6, 7]
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert all(side % 16 == 0 for batch in batches for side in batch.images.pixels.shape[2:])


def test_the_global_generators_are_left_alone(coco: CocoDataset) -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    list(islice(_loader(_samples(coco)).stream(), 2))
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # type: ignore[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image_arrives_as_its_own_message(coco: CocoDataset, coco_folder: Path, workers: int) -> None:
    (coco_folder / "2.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"^\S*2\.png: the file is empty") as caught:
        list(EvalLoader(_samples(coco), workers=workers, timeout=60.0))
    assert "Traceback" not in str(caught.value)


def test_dead_worker(coco: CocoDataset) -> None:
    samples = _Dying(coco, DetectionTransforms([]))
    with pytest.raises(RuntimeError, match=r"(?s)worker died or hung.*data\.workers=0"):
        next(_loader(samples, workers=1).stream())


def test_a_worker_that_is_killed_meanwhile_is_told_of_at_the_next_batch(coco: CocoDataset) -> None:
    """Not in the middle of whatever the program does then: an optimizer step cut in two could not be saved."""
    stream = _loader(_samples(coco), workers=1).stream()
    next(stream)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()  # which takes its exit code away from torch
    assert sum(range(100_000)) == 4_999_950_000  # the signal has come; nothing is raised here
    with pytest.raises(RuntimeError, match=r"worker died or hung.*exit code -9.*data\.workers"):
        next(stream)


def test_hung_worker(coco: CocoDataset) -> None:
    samples = _Hanging(coco, DetectionTransforms([]))
    loader = TrainLoader(samples, TrainSampler(len(samples), 2, 0), workers=1, timeout=0.3)
    with pytest.raises(RuntimeError, match=r"(?s)worker died or hung.*timed out.*data\.worker_timeout"):
        next(loader.stream())


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_were_killed_are_replaced_and_no_batch_is_lost(coco: CocoDataset, seed: int) -> None:
    samples = _samples(coco)
    alone = list(islice(_loader(samples).stream(2), 9))
    killed_after = np.random.default_rng(seed).choice(8, 2, replace=False)
    stream, batches = _loader(samples, workers=2, restarts=2).stream(2), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(9):
            if number in killed_after:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid, signal.SIGKILL)
                    worker.join()
            batches.append(next(stream))
    stream.close()  # type: ignore[attr-defined]
    assert all(_same(one, other) for one, other in zip(alone, batches, strict=True))


def test_workers_are_replaced_as_often_as_allowed(coco: CocoDataset) -> None:
    samples = _Dying(coco, DetectionTransforms([]))
    with (
        pytest.warns(UserWarning, match=r"died or hung.*Starting new workers \(1 of 1 times\)"),
        pytest.raises(WorkerError, match="died or hung"),
    ):
        next(_loader(samples, workers=1, restarts=1).stream())


def test_a_bug_keeps_its_traceback(coco: CocoDataset) -> None:
    with pytest.raises(KeyError, match="(?s)Traceback.*a bug"):
        next(_loader(_Buggy(coco, DetectionTransforms([])), workers=1).stream())


def test_workers_are_out_of_reach_of_ctrl_c(coco: CocoDataset) -> None:
    class Telling(TransformedDetectionDataset):
        def __getitem__(self, key: SampleKey) -> Sample:
            sample = super().__getitem__(key)
            sample.labels.fill_(int(os.getpgrp() == os.getpid()) + 10 * torch.get_num_threads())
            return sample

    loader = EvalLoader(Telling(SubsetDataset(coco, [0]), DetectionTransforms([])), workers=1, timeout=60.0)
    (batch,) = loader
    assert isinstance(batch.targets, GroundTruth) and batch.targets.labels.tolist() == [[11]]
