"""The benchmark job: settings, the check that both sides agree, times, files."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from detres.api import choose_device
from detres.engine.environment import describe_environment
from detres.jobs.benchmark.agreement import check_same_work
from detres.jobs.benchmark.report import draw_chart
from detres.jobs.benchmark.timing import compare, make_sides, measure_parts
from detres.jobs.benchmark.twins import make_inputs, make_twins
from detres.structures.atomic_file import atomic_path

SIZES_HW = {"infer": (800, 1066), "train": (512, 512)}
BATCH_SIZES = {"infer": 1, "train": 2}
_SMALLEST_SIDE = 64  # the coarsest feature map needs two cells
_MOST_PART_PASSES = 3


def benchmark(
    works: Sequence[str] = ("infer", "train"),
    *,
    size_hw: Sequence[int] | None = None,
    batch_size: int | None = None,
    image: str | None = None,
    repeats: int = 7,
    device: str = "cpu",
    threads: int | None = None,
    num_proposals: tuple[int, int] = (2000, 1000),
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Time inference ("infer") and training steps ("train") of detres against torchvision, float32 and eager.

    By default 800 x 1066 and batch 1, and 512 x 512 and batch 2 with 8 boxes per image; `num_proposals` at most
    (training, test) of an image. Both sides have the same
    weights and input, and nothing is kept from one repeat to the next. Returns settings and figures as plain values.
    Raises DifferentWork when the sides do not compute the same, ValueError for impossible settings.
    """
    _check_settings(size_hw, batch_size, repeats, threads)
    where = choose_device(device)
    results: dict[str, Any] = {"works": {}}
    with _threads(threads), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        results["settings"] = _describe(where, repeats)
        twins = make_twins(where, num_proposals)
        for work in works:
            size, count = size_hw or SIZES_HW[work], batch_size or BATCH_SIZES[work]
            inputs = make_inputs(size, count, image, where)
            twins.expect(size)
            progress(f"{work}, {count} x {size[0]} x {size[1]}, {inputs.source}: do both sides compute the same?")
            same = check_same_work(work, twins, inputs)
            sides = make_sides(work, twins, inputs)
            results["works"][work] = {
                "size_hw": list(size),
                "batch_size": count,
                "input": inputs.source,
                "same": same,
                **compare(sides, repeats, where, progress),
                "parts": measure_parts(sides, min(repeats, _MOST_PART_PASSES), where),
            }
    return results


def write_results(results: dict[str, Any], folder: str | Path) -> list[Path]:
    """benchmark.json and benchmark.png in `folder`; their paths. Raises OSError when it cannot be written."""
    table, chart = Path(folder) / "benchmark.json", Path(folder) / "benchmark.png"
    with atomic_path(table) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    with atomic_path(chart) as temporary:
        draw_chart(results, temporary)
    return [table, chart]


def _check_settings(size_hw: Sequence[int] | None, batch_size: int | None, repeats: int, threads: int | None) -> None:
    for name, value in (("repeats", repeats), ("batch size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, expected 1 or more")
    if size_hw is not None and min(size_hw) < _SMALLEST_SIDE:
        raise ValueError(f"size: got {tuple(size_hw)}, expected height and width of {_SMALLEST_SIDE} pixels or more")


def _describe(device: torch.device, repeats: int) -> dict[str, Any]:
    return {
        **describe_environment(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": "float32",
        "mode": "eager",
        "model": "Faster R-CNN, ResNet-50 FPN, frozen batch norms, stem and conv2_x frozen, random weights",
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
