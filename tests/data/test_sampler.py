"""The sampler: every image once per epoch, full batches, one orientation per batch, exact positions."""

from itertools import chain, islice
from typing import Any

import numpy as np
import pytest

from detres.data.sampler import TrainSampler
from detres.data.samples import SampleKey


def _keys(sampler: TrainSampler, count: int, start: int = 0) -> list[SampleKey]:
    return list(islice(chain.from_iterable(sampler.batches(start)), count))


def test_empty_data_set() -> None:
    with pytest.raises(ValueError, match="empty"):
        TrainSampler(0, 4, 0)


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (12, 4), (3, 8), (1, 2), (7, 1)])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_image_once_per_epoch(num_images: int, batch_size: int, grouped: bool) -> None:
    ratios = np.where(np.arange(num_images) % 3 == 0, 0.5, 1.5) if grouped else None
    sampler = TrainSampler(num_images, batch_size, 1, aspect_ratios=ratios)
    keys = _keys(sampler, 3 * num_images)
    for epoch in range(3):
        part = keys[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(key.image for key in part) == list(range(num_images))
        assert [key.epoch for key in part] == [epoch] * num_images
        assert [key.position for key in part] == list(range(num_images))
    assert all(len(batch) == batch_size for batch in islice(sampler.batches(), 9))


def test_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return TrainSampler(50, 4, seed).epoch_order(epoch).tolist()

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("start", [0, 4, 8, 20, 52, 400])
def test_resuming_is_exact(start: int) -> None:
    options: dict[str, Any] = {
        "aspect_ratios": np.random.default_rng(0).uniform(0.5, 2, 13),
        "repeat_factors": np.random.default_rng(1).uniform(1, 3, 13),
    }
    whole = _keys(TrainSampler(13, 4, 5, **options), start + 40)
    assert _keys(TrainSampler(13, 4, 5, **options), 40, start) == whole[start:]


def test_batches_are_of_one_orientation() -> None:
    ratios = np.random.default_rng(0).uniform(0.5, 2, 1003)
    sampler = TrainSampler(1003, 16, 0, aspect_ratios=ratios)
    mixed = []
    for batch in islice(sampler.batches(), 5 * 1003 // 16):
        wide = {bool(ratios[key.image] >= 1) for key in batch}
        mixed.append(len(wide) == 2)
    assert sum(mixed) <= 2 * 5, "at most the batches at the border of two epochs"
    firsts = [ratios[batch[0].image] >= 1 for batch in islice(sampler.batches(), 40)]
    assert 5 < sum(firsts) < 35, "landscape and portrait batches come in random order"


def test_repeat_factors() -> None:
    factors = np.array([1.0, 1.0, 2.5, 3.25, 1.5])
    sampler = TrainSampler(5, 2, 0, repeat_factors=factors)
    assert sampler.epoch_size == 9
    counts = np.array([np.bincount(sampler.epoch_order(epoch), minlength=5) for epoch in range(2000)])
    assert (counts.sum(axis=1) == 9).all()
    assert ((counts >= np.floor(factors)) & (counts <= np.ceil(factors))).all()
    np.testing.assert_allclose(counts.mean(axis=0), factors, atol=0.15)
    whole = TrainSampler(3, 2, 0, repeat_factors=np.array([1.0, 2.0, 1.0]))
    assert sorted(whole.epoch_order(4).tolist()) == [0, 1, 1, 2]


def test_ranks_and_micro_batches_share_a_step() -> None:
    whole = list(islice(TrainSampler(20, 8, 0).batches(), 3))
    parts: list[list[list[SampleKey]]] = []
    for rank in range(2):
        sampler = TrainSampler(20, 8, 0, micro_batches=2, rank=rank, world_size=2)
        parts.append(list(islice(sampler.batches(), 6)))
    for step in range(3):
        shares = [parts[rank][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert list(chain.from_iterable(shares)) == whole[step]
    with pytest.raises(ValueError, match="multiple of 3"):
        TrainSampler(20, 8, 0, micro_batches=3)
