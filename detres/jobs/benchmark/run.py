"""The benchmark job: settings, the check that both sides agree, times, files."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from detres.api import choose_device
from detres.engine.environment import describe_environment
from detres.files.atomic_file import atomic_path
from detres.jobs.benchmark.agreement import check_same_work
from detres.jobs.benchmark.evaluation import NUM_IMAGES, compare_evaluations
from detres.jobs.benchmark.pictures import photo_folder, training_folder
from detres.jobs.benchmark.pretraining import MODEL, Pretraining, pipelines
from detres.jobs.benchmark.report import draw_chart
from detres.jobs.benchmark.timing import compare, make_sides, measure_parts
from detres.jobs.benchmark.twins import Twins, make_inputs, make_twins

SIZES_HW = {"infer": (800, 1066), "train": (512, 512), "pretrain": (64, 64)}
BATCH_SIZES = {"infer": 1, "train": 2, "pretrain": 32}
_DETECTOR = "Faster R-CNN, ResNet-50 FPN, frozen batch norms, stem and conv2_x frozen, random weights"
_MODELS = {"pretrain": MODEL, "eval": "COCO's metrics for boxes"}
_SMALLEST_SIDE = 64  # the coarsest feature map needs two cells
_MOST_PART_PASSES = 3
_PHOTO_SIZE = 224
_STEPS_PER_TURN = 5


def benchmark(
    works: Sequence[str] = ("infer", "train"),
    *,
    size_hw: Sequence[int] | None = None,
    batch_size: int | None = None,
    image: str | None = None,
    data: str | None = None,
    workers: int = 0,
    repeats: int = 7,
    device: str = "cpu",
    threads: int | None = None,
    num_proposals: tuple[int, int] = (2000, 1000),
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Time detres against torchvision, float32 and eager, at each of `works`.

    infer     Faster R-CNN from images to detections; by default 800 x 1066 and batch 1
    train     its training steps; by default 512 x 512 and batch 2 with 8 boxes per image
    eval      COCO's metrics of 5,000 images with 100 detections each (`batch_size`: the images), against pycocotools
    pretrain  whole training loops of ResNet-18 on the images of `data` (by default Tiny ImageNet below DETRES_DATASETS
              at 64 x 64, batch 32), read by `workers` processes, and both input pipelines alone on one thread

    `num_proposals` at most (training, test) of an image. Both sides have the same weights and input; detectors keep
    nothing from one repeat to the next. Returns settings and figures as plain values.
    Raises DifferentWork when the sides do not compute the same, ValueError for impossible settings.
    """
    _check_settings(works, size_hw, batch_size, repeats, threads)
    where = choose_device(device)
    results: dict[str, Any] = {"works": {}}
    with _threads(threads), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        results["settings"] = _describe(works, where, repeats)
        twins = make_twins(where, num_proposals) if {"infer", "train"} & set(works) else None
        for work in works:
            if work == "eval":
                results["works"][work] = compare_evaluations(batch_size or NUM_IMAGES, repeats, progress)
                continue
            size, count = size_hw or SIZES_HW[work], batch_size or BATCH_SIZES[work]
            if work == "pretrain":
                results["works"] |= _pretraining(data, size[0], count, workers, repeats, where, progress)
            else:
                assert twins is not None
                results["works"][work] = _detection(work, twins, size, count, image, repeats, where, progress)
    return results


def _detection(
    work: str,
    twins: Twins,
    size_hw: Sequence[int],
    batch_size: int,
    image: str | None,
    repeats: int,
    device: torch.device,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The figures of "infer" or "train"."""
    inputs = make_inputs(size_hw, batch_size, image, device)
    twins.expect(size_hw)
    progress(_question(work, batch_size, size_hw, inputs.source))
    same = check_same_work(work, twins, inputs)
    sides = make_sides(work, twins, inputs)
    return {
        "size_hw": list(size_hw),
        "batch_size": batch_size,
        "input": inputs.source,
        "same": same,
        **compare(sides, repeats, device, progress),
        "parts": measure_parts(sides, min(repeats, _MOST_PART_PASSES), device),
    }


def _pretraining(
    data: str | None,
    size: int,
    batch_size: int,
    workers: int,
    repeats: int,
    device: torch.device,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The figures of the loops, and of the input pipelines alone: of the same images, and of photos."""
    with tempfile.TemporaryDirectory() as name:
        folder, source = training_folder(data, Path(name), 2 * batch_size)
        pretraining = Pretraining(folder, size, batch_size, workers, device)
        progress(_question("pretrain", batch_size, (size, size), source))
        found = {"size_hw": [size, size], "batch_size": batch_size, "input": source}
        same = pretraining.check_same_work()
        figures = {"pretrain": {**found, "same": same, **pretraining.compare(repeats, _STEPS_PER_TURN, progress)}}
        photos, photo_source = photo_folder(Path(name), batch_size)
        for work, images, side, what in (
            ("pipeline", folder, size, source),
            ("pipeline of photos", photos, _PHOTO_SIZE, photo_source),
        ):
            progress(f"{work} alone, {batch_size} x {side} x {side}, {what}")
            found = {"size_hw": [side, side], "batch_size": batch_size, "input": what, "same": {}}
            figures[work] = {**found, **_pipelines(images, side, batch_size, repeats, progress)}
    return figures


def _pipelines(
    folder: Path, size: int, batch_size: int, repeats: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Seconds of both sides per batch, from files to normalised pixels, in this process and on one thread."""
    here = torch.device("cpu")
    with _threads(1), _one_opencv_thread():
        figures = compare(pipelines(Pretraining(folder, size, batch_size, 0, here)), repeats, here, progress)
    parts = {name: {"loading": seconds["median"]} for name, seconds in figures["seconds"].items()}
    return {**figures, "parts": parts}


def _question(work: str, batch_size: int, size_hw: Sequence[int], source: str) -> str:
    return f"{work}, {batch_size} x {size_hw[0]} x {size_hw[1]}, {source}: do both sides compute the same?"


def write_results(results: dict[str, Any], folder: str | Path) -> list[Path]:
    """benchmark.json and benchmark.png in `folder`; their paths. Raises OSError when it cannot be written."""
    table, chart = Path(folder) / "benchmark.json", Path(folder) / "benchmark.png"
    with atomic_path(table) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    with atomic_path(chart) as temporary:
        draw_chart(results, temporary)
    return [table, chart]


def _check_settings(
    works: Sequence[str], size_hw: Sequence[int] | None, batch_size: int | None, repeats: int, threads: int | None
) -> None:
    for name, value in (("repeats", repeats), ("batch size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, expected 1 or more")
    if size_hw is not None and min(size_hw) < _SMALLEST_SIDE:
        raise ValueError(f"size: got {tuple(size_hw)}, expected height and width of {_SMALLEST_SIDE} pixels or more")
    if size_hw is not None and "pretrain" in works and size_hw[0] != size_hw[1]:
        raise ValueError(f"size: got {tuple(size_hw)}, expected a square for pretrain, which crops to squares")


def _describe(works: Sequence[str], device: torch.device, repeats: int) -> dict[str, Any]:
    return {
        **describe_environment(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": "float32",
        "mode": "eager",
        "model": "; ".join(dict.fromkeys(_MODELS.get(work, _DETECTOR) for work in works)),
        "repeats": repeats,
    }


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
