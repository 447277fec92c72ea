"""The memory for decoded images: the same bits, never more bytes than allowed, one for all workers."""

import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detres.data.coco import CocoDataset
from detres.data.given_images import GivenImages
from detres.data.image_cache import MIB, ImageCache, describe_cache
from detres.data.image_io import ReadImage
from detres.data.loader import EvalLoader, TrainLoader
from detres.data.sampler import TrainSampler
from detres.data.samples import SampleKey, TransformedDetectionDataset
from detres.data.transforms import DetectionTransforms

STEPS: list[dict[str, Any]] = [{"type": "resize_shortest", "short": [32, 48, 100]}, {"type": "horizontal_flip"}]


def _noise(height: int, width: int, seed: int = 0) -> ReadImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ReadImage(pixels, (height, width))


def test_empty() -> None:
    cache = ImageCache(0, 1)
    assert cache.bytes_used == 0 and cache.num_kept == 0
    assert ImageCache(3, 1).get(2, None) is None


def test_images_come_out_as_they_went_in() -> None:
    cache = ImageCache(3, 1)
    for index, image in enumerate([_noise(10, 20), _noise(1, 7, 1)]):
        cache.put(index, image)
    found = cache.get(1, None)
    assert found is not None and (found.pixels == _noise(1, 7, 1).pixels).all() and found.size_hw == (1, 7)
    found.pixels[:] = 0
    again = cache.get(1, None)
    assert again is not None and (again.pixels == _noise(1, 7, 1).pixels).all(), "a copy"
    assert again.pixels.flags.writeable and cache.bytes_used == 3 * (200 + 7) and cache.num_kept == 2
    cache.put(1, _noise(5, 5))
    assert cache.bytes_used == 3 * 207, "kept already"


def test_what_does_not_fit_is_not_kept() -> None:
    cache = ImageCache(4, 1)
    for index, side in enumerate([500, 400, 180, 10]):
        cache.put(index, _noise(side, side))
        assert cache.bytes_used <= MIB
    assert [cache.get(index, None) is not None for index in range(4)] == [True, False, True, True]
    assert cache.bytes_used == 3 * (500**2 + 180**2 + 10**2)


def test_a_reduced_image_serves_where_it_would_be_reduced_alike() -> None:
    cache = ImageCache(2, 1)
    pixels = _noise(25, 40).pixels
    cache.put(0, ReadImage(pixels, (50, 80), is_reducible=True))
    assert cache.get(0, lambda _: (16, 16)) is not None
    for needed in (None, lambda _: (8, 8), lambda _: (20, 20)):
        assert cache.get(0, needed) is None
    cache.put(1, ReadImage(pixels, (25, 40), is_reducible=False))
    assert cache.get(1, lambda _: (2, 2)) is not None


def test_another_process_that_was_not_forked_gets_an_empty_one() -> None:
    cache = ImageCache(2, 1)
    cache.put(0, _noise(4, 4))
    other = pickle.loads(pickle.dumps(cache))
    other.put(0, _noise(4, 4))
    assert other.get(0, None) is None and other.bytes_used == 0


@pytest.fixture
def photographs(tmp_path: Path) -> GivenImages:
    """Six JPEGs, some large enough to be reduced."""
    files = []
    for number, (height, width) in enumerate([(40, 60), (200, 151), (333, 500), (90, 90), (410, 300), (64, 64)]):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(_noise(height // 8 + 1, width // 8 + 1, number).pixels).resize((width, height)).save(path)
        files.append(path)
    boxes = [np.array([[5, 5, 30, 35], [10, 2, 20, 38]], np.float32)] * 6
    return GivenImages(files, boxes, [np.array([0, 1])] * 6)


@pytest.mark.parametrize("decode", ["full", "reduced"])
@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_are_the_same_with_and_without_it(photographs: GivenImages, workers: int, decode: str) -> None:
    def batches(cache: ImageCache | None) -> list[torch.Tensor]:
        transforms = DetectionTransforms(STEPS)
        samples = TransformedDetectionDataset(photographs, transforms, 3, decode=decode, cache=cache)
        loader = TrainLoader(samples, TrainSampler(6, 2, 0), workers=workers, timeout=60.0)
        stream = loader.stream()
        found = [batch.images.pixels for batch in islice(stream, 12)]
        stream.close()  # type: ignore[attr-defined]
        return found

    cache = ImageCache(6, 1)
    assert all(torch.equal(a, b) for a, b in zip(batches(None), batches(cache), strict=True))
    assert cache.num_kept >= 4 and 0 < cache.bytes_used <= MIB, "the workers' images are here too"


def test_kept_images_need_no_file(coco: CocoDataset, coco_folder: Path) -> None:
    cache = ImageCache(len(coco), 1)
    samples = TransformedDetectionDataset(coco, DetectionTransforms(STEPS), 3, cache=cache)
    before = list(EvalLoader(samples, 3, workers=2, timeout=60.0))
    for file in coco_folder.glob("*.png"):
        file.unlink()
    after = list(EvalLoader(samples, 3, workers=1, timeout=60.0))
    assert all(torch.equal(a.images.pixels, b.images.pixels) for a, b in zip(before, after, strict=True))
    assert samples[SampleKey(0, 5, 5)].original_size_hw == (40, 60)


def test_what_fits_is_told() -> None:
    sizes = np.full((100, 2), 1024)
    assert describe_cache(300, sizes) == "data.cache: 300 MiB; all 100 images fit (300 MiB decoded)"
    assert describe_cache(30, sizes) == "data.cache: 30 MiB; about 10 of 100 images fit (300 MiB decoded)"
    assert "all 0 images fit" in describe_cache(1, np.zeros((0, 2)))
