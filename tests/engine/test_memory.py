"""Memory: counted tensors, files of the system, and a stand-in for a GPU."""

from pathlib import Path

import pytest
import torch

from detres.engine import memory
from detres.engine.memory import GPU_SHARE, HOST_SHARE, TensorCounter, fits_on_gpu, fits_on_host, free_host_memory

KIB = 1024


def test_nothing_made_nothing_counted():
    with TensorCounter() as counter:
        counter.start_peak()
    assert counter.peak == 0


def test_the_peak_counts_what_lives_at_one_time():
    start = torch.zeros(KIB, dtype=torch.uint8)
    with TensorCounter() as counter:
        first = start + 1
        assert counter.peak == KIB
        view = first[:10]
        first.add_(1)
        assert counter.peak == KIB, "views and changes in place take nothing"
        second = first + 1
        del first
        third = second + 1
        assert counter.peak == 3 * KIB, "the view keeps the first alive"
        del view, second, third
        counter.start_peak()
        assert counter.peak == 0


def test_what_autograd_keeps_is_counted():
    weight = torch.ones(KIB // 4, requires_grad=True)
    with TensorCounter() as counter:
        kept = weight.exp().sin()  # exp keeps its result, which sin keeps too
        assert counter.peak == 2 * KIB
        kept.sum().backward()
        assert counter.peak > 3 * KIB
        del kept
        counter.start_peak()
        assert counter.peak == KIB, "the gradient"


def test_the_host_is_asked_by_two_and_three_images():
    steps, held = [], []

    def step(images: int, parts: int) -> None:
        steps.append((images, parts))
        if not held:
            held.append(torch.zeros(10 * KIB, dtype=torch.uint8))  # an optimizer's state
        torch.zeros(images * KIB, dtype=torch.uint8)

    fits = fits_on_host(step, free_bytes=(10 + 8) * KIB / HOST_SHARE)
    assert steps == [(2, 1), (2, 1), (3, 1)]
    assert [images for images in (1, 2, 4, 8, 9, 16) if fits(images)] == [1, 2, 4, 8]
    assert len(steps) == 3, "no step is made for an answer"


def write(root: Path, **files: object) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(content))
    return root


MEMINFO = "MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  6000 kB\n"


def test_free_memory_of_the_machine_and_of_the_container(tmp_path):
    assert free_host_memory(write(tmp_path / "plain", proc__meminfo=MEMINFO)) == 6000 * KIB
    stat = "anon 900\ninactive_file 300\ntotal_inactive_file 300\n"
    second = {"memory_DOT_current": 1000, "memory_DOT_stat": stat}
    files = {f"sys__fs__cgroup__{name}": value for name, value in second.items()}
    box = write(tmp_path / "v2", proc__meminfo=MEMINFO, sys__fs__cgroup__memory_DOT_max=5000, **files)
    assert free_host_memory(box) == 5000 - 1000 + 300
    write(box, sys__fs__cgroup__memory_DOT_max="max")
    assert free_host_memory(box) == 6000 * KIB, "no limit"
    write(box, sys__fs__cgroup__memory_DOT_max=100)
    assert free_host_memory(box) == 0
    (tmp_path / "v1/sys/fs/cgroup/memory").mkdir(parents=True)
    for name, value in (("limit_in_bytes", 5000), ("usage_in_bytes", 1000), ("stat", stat)):
        (tmp_path / f"v1/sys/fs/cgroup/memory/memory.{name}").write_text(str(value))
    assert free_host_memory(tmp_path / "v1") == 4300


def test_systems_that_do_not_say(tmp_path, monkeypatch):
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10}.__getitem__, raising=False)
    assert free_host_memory(tmp_path) == 20480
    monkeypatch.delattr(memory.os, "sysconf")
    with pytest.raises(ValueError, match="does not tell how much memory"):
        free_host_memory(tmp_path)


class FakeGpu:
    """100 bytes, of which another program has 20; our process holds 10 already. A step reserves 10 per image."""

    OutOfMemoryError = torch.cuda.OutOfMemoryError

    def __init__(self) -> None:
        self.peak, self.emptied, self.steps = 10, 0, []

    def mem_get_info(self, device):
        return 70, 100  # noqa: E704

    def memory_reserved(self, device):
        return 10  # noqa: E704

    def max_memory_reserved(self, device):
        return self.peak  # noqa: E704

    def synchronize(self, device):
        pass  # noqa: E704

    def reset_peak_memory_stats(self, device):
        self.peak = 10  # noqa: E704

    def empty_cache(self):
        self.emptied += 1  # noqa: E704

    def step(self, images: int, parts: int) -> None:
        self.steps.append((images, parts))
        if 10 + 10 * images > 80:
            raise self.OutOfMemoryError("CUDA out of memory")
        self.peak = max(self.peak, 10 + 10 * images)


def test_a_gpu_is_asked_by_real_steps_with_a_margin(monkeypatch):
    gpu = FakeGpu()
    monkeypatch.setattr(torch, "cuda", gpu)
    fits = fits_on_gpu(gpu.step, torch.device("cuda"))
    budget = GPU_SHARE * 80
    for images in (1, 2, 4, 6, 7, 8):
        gpu.steps.clear()
        gpu.emptied = 0
        assert fits(images) == (10 + 10 * images <= budget)
        ran_out = images > 7
        assert gpu.steps == [(images, 2)] * (1 if ran_out else 2) and gpu.emptied == 2
    assert fits(7) is False, "seven fit, but not within the margin"


def test_other_errors_of_a_step_are_not_taken_for_a_lack_of_memory(monkeypatch):
    monkeypatch.setattr(torch, "cuda", FakeGpu())

    def step(images: int, parts: int) -> None:
        raise ValueError("expected more than 1 value per channel")

    with pytest.raises(ValueError, match="more than 1 value"):
        fits_on_gpu(step, torch.device("cuda"))(1)
