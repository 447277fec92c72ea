"""The classifiers' transforms: pixels against Pillow and torchvision, distributions against their formulas."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from detres.data.transforms import DetectionTransforms

NOTHING = np.zeros(0)
STEPS: list[dict[str, Any]] = [
    {"type": "random_resize_shortest", "min": 20, "max": 40},
    {"type": "pad_and_crop", "padding": 4, "size": 32, "fill": [125, 123, 114]},
    {"type": "pca_lighting"},
    {"type": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    {"type": "trivial_augment"},
    {"type": "rand_augment"},
    {"type": "random_erasing", "p": 1.0},
]


def _noise(height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _run(step: dict[str, Any], image: np.ndarray, seed: int = 0) -> np.ndarray:
    return DetectionTransforms([step])(image, NOTHING, NOTHING, NOTHING, seed).image


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["type"])
def test_one_pixel(step: dict[str, Any]) -> None:
    made = _run(step, np.full((1, 1, 3), 7, dtype=np.uint8))
    assert made.dtype == np.uint8 and made.ndim == 3 and made.shape[2] == 3


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["type"])
def test_the_seed_decides_alone_and_nothing_leaks(step: dict[str, Any]) -> None:
    image, mirrored = _noise(40, 48), _noise(40, 48)[:, ::-1]
    first = _run(step, image, 5)
    assert (image == _noise(40, 48)).all(), "a data set may keep its images in memory"
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()
    assert (_run(step, image, 5) == first).all()
    after = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert len({_run(step, image, seed).tobytes() for seed in range(12)}) > 4
    assert (_run(step, mirrored, 5) == _run(step, mirrored.copy(), 5)).all()


def test_scale_augmentation_takes_every_size() -> None:
    shapes = {_run(STEPS[0], _noise(30, 60), seed).shape[:2] for seed in range(400)}
    assert shapes == {(short, 2 * short) for short in range(20, 41)}


def test_pad_and_crop_takes_every_window_equally_often() -> None:
    image = np.arange(9, dtype=np.uint8).reshape(3, 3, 1).repeat(3, axis=2) + 1
    padded = np.zeros((5, 5, 3), dtype=np.uint8) + np.array([20, 30, 40], dtype=np.uint8)
    padded[1:4, 1:4] = image
    windows = [padded[y : y + 3, x : x + 3].tobytes() for y in range(3) for x in range(3)]
    counts = dict.fromkeys(windows, 0)
    step = {"type": "pad_and_crop", "padding": 1, "size": 3, "fill": [20.4, 29.6, 40]}
    for seed in range(900):
        counts[_run(step, image, seed).tobytes()] += 1
    assert len(counts) == 9 and min(counts.values()) > 70 and max(counts.values()) < 135


def test_pad_and_crop_moves_boxes_and_keeps_what_is_smaller() -> None:
    image = np.zeros((10, 20, 3), dtype=np.uint8)
    image[3:6, 5:12] = 255
    steps = DetectionTransforms([{"type": "pad_and_crop", "padding": 2, "size": 16}])
    for seed in range(20):
        made = steps(image, np.array([[5, 3, 12, 6]]), np.zeros(1), np.zeros(1), seed)
        rows, columns = np.nonzero(made.image[:, :, 0])
        assert made.image.shape == (14, 16, 3)
        assert made.boxes_xyxy.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]


def test_pca_lighting_shifts_all_pixels_alike_and_clips() -> None:
    image = np.full((2, 3, 3), 128, dtype=np.uint8)
    image[0, 0], image[1, 2] = 0, 255
    made = _run({"type": "pca_lighting", "std": 0.5}, image, 3).astype(int)
    shift = made[0, 1] - 128
    assert shift.any() and (made[0, 0] == np.maximum(shift, 0)).all()
    assert (made[1, 2] == 255 + np.minimum(shift, 0)).all()
    assert (_run({"type": "pca_lighting", "std": 0.0}, _noise()) == _noise()).all()


def test_pca_lighting_has_the_covariance_of_its_components() -> None:
    image = np.full((1, 1, 3), 128, dtype=np.uint8)
    steps = DetectionTransforms([{"type": "pca_lighting", "std": 0.4}])
    shifts = np.array([steps(image, NOTHING, NOTHING, NOTHING, seed).image[0, 0] for seed in range(4000)]) - 128.0
    values, vectors = np.linalg.eigh(np.cov(shifts.T))
    expected = 255 * 0.4 * np.array([0.0045, 0.0188, 0.2175])  # fb.resnet.torch's eigenvalues, smallest first
    np.testing.assert_allclose(np.sqrt(values - 1 / 12), expected, rtol=0.06)  # 1/12: of rounding
    assert abs(vectors[:, 2] @ [-0.5675, -0.5808, -0.5836]) > 0.999
    assert np.abs(shifts.mean(axis=0)).max() < 1.5


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_color_jitter_is_torchvisions(name: str) -> None:
    adjust, centre = getattr(functional, f"adjust_{name}"), 0.0 if name == "hue" else 1.0
    possible = {
        np.array(adjust(Image.fromarray(_noise()), centre + amount / 1000)).tobytes(): amount
        for amount in range(-300, 301, 4)
    }
    amounts = []
    for seed in range(40):
        made = _run({"type": "color_jitter", name: 0.3}, _noise(), seed).astype(int)
        differences = {
            amount: np.abs(np.frombuffer(pixels, np.uint8).reshape(32, 32, 3) - made).mean()
            for pixels, amount in possible.items()
        }
        amounts.append(min(differences, key=lambda amount: differences[amount]))
        assert differences[amounts[-1]] < 0.6
    assert min(amounts) < -220 and max(amounts) > 220


def test_color_jitter_changes_nothing_by_default_and_much_with_all() -> None:
    assert (_run({"type": "color_jitter"}, _noise()) == _noise()).all()
    grey = np.full((4, 4, 3), 100, dtype=np.uint8)
    assert (_run({"type": "color_jitter", "saturation": 0.9, "hue": 0.5}, grey) == grey).all()
    strong = {"type": "color_jitter", "brightness": 3.0}  # the factor is never below 0: from black to four times
    values = [int(_run(strong, grey, seed)[0, 0, 0]) for seed in range(100)]
    assert min(values) < 20 and max(values) == 255


@pytest.mark.parametrize(
    ("step", "policy"),
    [
        ({"type": "trivial_augment"}, v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)),
        (
            {"type": "rand_augment", "num_ops": 3, "magnitude": 12},
            v2.RandAugment(3, 12, interpolation=v2.InterpolationMode.BILINEAR),
        ),
    ],
    ids=["trivial_augment", "rand_augment"],
)
def test_policies_are_torchvisions(step: dict[str, Any], policy: Any) -> None:
    from detres.structures.random import derive_seed

    for seed in range(20):
        torch.manual_seed(derive_seed(seed, 0))
        expected = np.array(policy(Image.fromarray(_noise())))
        assert (_run(step, _noise(), seed) == expected).all()


@pytest.mark.parametrize("kind", ["trivial_augment", "rand_augment"])
def test_policies_refuse_boxes(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} got an image with boxes.*albumentations"):
        DetectionTransforms([{"type": kind}])(_noise(), np.array([[1, 1, 5, 5]]), np.zeros(1), np.zeros(1), 0)


def test_erasing_covers_one_rectangle_of_the_asked_size() -> None:
    image, shares, ratios = np.full((100, 80, 3), 7, dtype=np.uint8), [], []
    step = {"type": "random_erasing", "p": 1.0, "scale": [0.1, 0.3], "ratio": [0.5, 2.0], "fill": [200, 100.4, 255]}
    for seed in range(200):
        made = _run(step, image, seed)
        rows, columns = np.nonzero((made != 7).any(axis=2))
        window = made[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (window == [200, 100, 255]).all() and len(rows) == window.shape[0] * window.shape[1]
        shares.append(len(rows) / 8000)
        ratios.append(window.shape[0] / window.shape[1])
    assert 0.095 < min(shares) < 0.12 and 0.28 < max(shares) < 0.305
    assert 0.48 < min(ratios) < 0.6 and 1.7 < max(ratios) < 2.06


def test_erasing_by_chance_and_with_random_pixels() -> None:
    image = np.full((40, 40, 3), 7, dtype=np.uint8)
    erased = [(_run({"type": "random_erasing", "p": 0.3}, image, seed) != 7).any() for seed in range(500)]
    assert 0.24 < np.mean(erased) < 0.36
    assert len(np.unique(_run({"type": "random_erasing", "p": 1.0, "scale": [0.3, 0.3]}, image))) > 100
    tall = {"type": "random_erasing", "p": 1.0, "scale": [0.9, 0.9], "ratio": [3.0, 3.0]}
    assert (_run(tall, image) == 7).all(), "no window of this shape fits"
