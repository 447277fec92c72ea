"""The benchmark job: settings, the works one after the other, files."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from detres.api import choose_device
from detres.engine.environment import describe_environment
from detres.engine.precision import PrecisionName
from detres.files.atomic_file import atomic_path
from detres.jobs.benchmark import classification, loading, pretraining
from detres.jobs.benchmark.ceiling import Ceilings
from detres.jobs.benchmark.chart import draw_chart
from detres.jobs.benchmark.conditions import Conditions, on_threads, one_thread
from detres.jobs.benchmark.contest import describe_sides
from detres.jobs.benchmark.detection import compare_detectors
from detres.jobs.benchmark.evaluation import NUM_IMAGES, compare_evaluations
from detres.jobs.benchmark.machine import OtherLoad, processor_name
from detres.jobs.benchmark.pictures import photo_folder, training_folder
from detres.jobs.benchmark.pretraining import Pretraining, pipelines
from detres.jobs.benchmark.synchronisations import count_synchronisations
from detres.jobs.benchmark.timing import compare

WORKS = ("infer", "infer_v2", "train", "data", "eval", "classify", "pretrain")
SIZES_HW = {"infer": (800, 1066), "infer_v2": (800, 1066), "train": (512, 512), "pretrain": (64, 64)}
BATCH_SIZES = {"infer": 1, "infer_v2": 1, "train": 2, "data": 64, "eval": NUM_IMAGES, "classify": 128, "pretrain": 32}
_DETECTORS = ("infer", "infer_v2", "train")
_WITHOUT_OPTIONS = ("data", "eval", "pretrain")  # nothing there has a number format or could be compiled
_MODELS = {
    "infer": "Faster R-CNN, ResNet-50 FPN, frozen batch norms, stem and conv2_x frozen, random weights",
    "train": "Faster R-CNN, ResNet-50 FPN, frozen batch norms, stem and conv2_x frozen, random weights",
    "infer_v2": "torchvision's version 2 of it, with batch norms everywhere",
    "data": loading.MODEL,
    "eval": "COCO's metrics for boxes",
    "classify": classification.MODEL,
    "pretrain": pretraining.MODEL,
}
_SMALLEST_SIDE = 64  # the coarsest feature map needs two cells
_PHOTO_SIZE = 224
_STEPS_PER_TURN = 5


def benchmark(
    works: Sequence[str] = WORKS,
    *,
    against: str = "torchvision",
    size_hw: Sequence[int] | None = None,
    batch_size: int | None = None,
    image: str | None = None,
    data: str | None = None,
    workers: int = 0,
    repeats: int = 7,
    device: str = "cpu",
    threads: int | None = None,
    precision: PrecisionName = "float32",
    their_precision: PrecisionName = "float32",
    compile: bool = False,
    allocator: str = "own",
    profile: bool = False,
    num_proposals: tuple[int, int] = (2000, 1000),
    progress: Callable[[str], None] = print,
    finished: Callable[[dict[str, Any]], object] = lambda results: None,
) -> dict[str, Any]:
    """Time detres against torchvision, which is eager and in float32, at each of `works`.

    infer     Faster R-CNN from images to detections, ours optimised for inference; by default 800 x 1066 and batch 1
    infer_v2  the same of torchvision's version 2
    train     its training steps; by default 512 x 512 and batch 2 with 8 boxes per image
    data      from JPEG files (`data`, by default COCO's; `batch_size` at most) with boxes to normalised pixels of the
              shorter side 800, on one core, against Pillow and transforms.v2
    eval      COCO's metrics of 5,000 images with 100 detections each (`batch_size`: the images), against pycocotools
    classify  training steps of a CIFAR ResNet-20, batch 128, against the same network in plain torch modules
    pretrain  whole training loops of ResNet-18 on the images of `data` (by default Tiny ImageNet below DETRES_DATASETS
              at 64 x 64, batch 32), read by `workers` processes, and both input pipelines alone on one thread

    `precision` and `compile` are of our side; `their_precision` other than float32 is torch's autocast. `allocator`
    "own" gives the opponent malloc's defaults and us our own settings, "default" and "tuned" the same to both.
    `against` "detres" compares with detres itself, eager, float32, without options (detectors, classify). `profile`
    counts where a training step waits for a GPU. `num_proposals` at most (training, test) of an image.
    Both sides have the same weights and input; detectors keep nothing from one repeat to the next. Returns settings
    and figures as plain values, which `finished` gets after each work with those so far.
    Raises DifferentWork when the sides do not compute the same, ValueError for impossible settings.
    """
    _check_settings(works, size_hw, batch_size, repeats, threads)
    conditions = Conditions(
        device=choose_device(device),
        precision=precision,
        their_precision=their_precision,
        compile=compile,
        allocator=allocator,
        against=against,
        repeats=repeats,
        progress=progress,
    ).check()
    _check_options(works, conditions, profile)
    ceilings, others = Ceilings(conditions.device, progress), OtherLoad()
    results: dict[str, Any] = {"works": {}}
    with on_threads(threads), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        results["settings"] = _describe(works, conditions)
        for work in works:
            count, size = batch_size or BATCH_SIZES[work], size_hw or SIZES_HW.get(work, (0, 0))
            if work in _DETECTORS:
                contest = compare_detectors(work, conditions, size, count, image, num_proposals)
                results["works"][work] = contest.run(conditions, ceilings)
                if profile and work == "train":
                    results["works"][work]["synchronisations"] = count_synchronisations(contest.sides)
            else:
                results["works"] |= _without_detectors(work, conditions, ceilings, size[0], count, data, workers)
            results["ceilings"] = ceilings.rates
            results["settings"]["other_load"] = others.share()
            finished(results)
    return results


def _without_detectors(
    work: str, conditions: Conditions, ceilings: Ceilings, size: int, count: int, data: str | None, workers: int
) -> dict[str, dict[str, Any]]:
    """The figures of one of the other works, by name: pretrain has those of its input pipelines too."""
    if work == "classify":
        return {work: classification.compare_classifiers(conditions, count).run(conditions, ceilings)}
    if work == "data":
        return {work: loading.compare_loading(conditions, data, count)}
    if work == "eval":
        return {work: compare_evaluations(count, conditions)}
    return _pretraining(data, size, count, workers, conditions)


def _pretraining(data: str | None, size: int, batch_size: int, workers: int, conditions: Conditions) -> dict[str, Any]:
    """The figures of the loops, and of the input pipelines alone: of the same images, and of photos."""
    progress = conditions.progress
    with tempfile.TemporaryDirectory() as name:
        folder, source = training_folder(data, Path(name), 2 * batch_size)
        loops = Pretraining(folder, size, batch_size, workers, conditions.device)
        progress(f"pretrain, {batch_size} x {size} x {size}, {source}: do both sides compute the same?")
        found = {"size_hw": [size, size], "batch_size": batch_size, "input": source}
        same = loops.check_same_work()
        figures = {"pretrain": {**found, "same": same, **loops.compare(_STEPS_PER_TURN, conditions)}}
        photos, photo_source = photo_folder(Path(name), batch_size)
        for work, images, side, what in (
            ("pipeline", folder, size, source),
            ("pipeline of photos", photos, _PHOTO_SIZE, photo_source),
        ):
            progress(f"{work} alone, {batch_size} x {side} x {side}, {what}")
            found = {"size_hw": [side, side], "batch_size": batch_size, "input": what, "same": {}}
            figures[work] = {**found, **_pipelines(images, side, batch_size, conditions)}
    return figures


def _pipelines(folder: Path, size: int, batch_size: int, conditions: Conditions) -> dict[str, Any]:
    """Seconds of both sides per batch, from files to normalised pixels, in this process and on one thread."""
    here = torch.device("cpu")
    with one_thread():
        both = pipelines(Pretraining(folder, size, batch_size, 0, here), conditions)
        figures = compare(both, conditions.repeats, here, conditions.progress)
    parts = {name: {"loading": seconds["median"]} for name, seconds in figures["seconds"].items()}
    return {"sides": describe_sides(both), **figures, "parts": parts}


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
    for work in works:
        if work not in WORKS:
            raise ValueError(f"work: got {work!r}, expected some of {', '.join(WORKS)}")
    for name, value in (("repeats", repeats), ("batch size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, expected 1 or more")
    if size_hw is not None and min(size_hw) < _SMALLEST_SIDE:
        raise ValueError(f"size: got {tuple(size_hw)}, expected height and width of {_SMALLEST_SIDE} pixels or more")
    if size_hw is not None and "pretrain" in works and size_hw[0] != size_hw[1]:
        raise ValueError(f"size: got {tuple(size_hw)}, expected a square for pretrain, which crops to squares")


def _check_options(works: Sequence[str], conditions: Conditions, profile: bool) -> None:
    without = [work for work in works if work in _WITHOUT_OPTIONS]
    if without and conditions.against == "detres":
        raise ValueError(f"against: got detres for {', '.join(without)}, expected torchvision; name the other works")
    given = {"precision": conditions.precision != "float32", "compile": conditions.compile}
    if len(without) == len(works) and any(given.values()):
        names = " and ".join(name for name, is_given in given.items() if is_given)
        raise ValueError(f"{names}: means nothing for {', '.join(without)}; expected it with one of the other works")
    if profile and (conditions.device.type != "cuda" or "train" not in works):
        raise ValueError("profile: counts where training steps wait for a GPU; expected train and --device cuda")


def _describe(works: Sequence[str], conditions: Conditions) -> dict[str, Any]:
    device = conditions.device
    return {
        **describe_environment(),
        "processor": processor_name(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "against": conditions.against,
        "precision": conditions.precision,
        "their_precision": conditions.their_precision,
        "compile": conditions.compile,
        "allocator": conditions.allocator,
        "model": "; ".join(dict.fromkeys(_MODELS[work] for work in works)),
        "repeats": conditions.repeats,
    }
