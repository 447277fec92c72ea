"""The public CIFAR-10 ResNet-20 on the real (lossy) test images, through the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.conftest import Outcome, run_detres

# What the public weights expect in place of the paper's pixels: RGB with ImageNet's mean (the default) and deviation.
PIXELS = ["model.pixels.per_pixel_mean=null", "model.pixels.std=[58.395,57.12,57.375]"]


def _evaluate(real_data: Path, output: Path, *overrides: str) -> Outcome:
    weights = real_data / "weights" / "cifar10_resnet20.npz"
    return run_detres(
        "eval", "--config", "paper/cifar10_resnet20.yaml", "--weights", weights, "--split", "test",
        "--output", output, "data.workers=0", *overrides,
    )  # fmt: skip


@pytest.fixture
def evaluate(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`detres eval` of the public weights."""
    if not (real_data / "cifar10").is_dir():
        pytest.skip(f"needs {real_data / 'cifar10'}")
    monkeypatch.setenv("DETRES_DATASETS", str(real_data))
    return lambda *overrides: _evaluate(real_data, tmp_path, *overrides)


def test_without_the_pixels_that_they_expect(evaluate: Callable[..., Outcome]) -> None:
    outcome = evaluate()
    assert outcome.code == 1
    assert "pixels.mean_image is not in the file" in outcome.err and PIXELS[0] in outcome.err


def test_top1_on_all_test_images(evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = evaluate(*PIXELS)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert metrics["top1"] == pytest.approx(0.81, abs=0.005)  # 0.917 on the originals
