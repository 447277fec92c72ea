"""Orders by radix: numpy's own stable sort is what they must equal."""

import numpy as np
import pytest

from detres.evaluation.ordering import places_in_runs, stable_order, starts_of_runs


def test_nothing() -> None:
    nothing = np.zeros(0)
    assert len(stable_order(nothing)) == len(stable_order(nothing, nothing)) == 0
    assert len(starts_of_runs(nothing)) == len(places_in_runs(np.zeros(0, dtype=np.int64))) == 0


@pytest.mark.parametrize("largest", [1, 2**16, 2**16 + 1, 2**40, 2**62])
def test_integers(largest: int) -> None:
    keys = np.random.default_rng(0).integers(largest, size=1000)
    keys[::3] = keys[0]
    np.testing.assert_array_equal(stable_order(keys), np.argsort(keys, kind="stable"))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numbers_of_every_size_and_sign(kind: type) -> None:
    rng = np.random.default_rng(1)
    keys = (rng.normal(size=1000) * 10.0 ** rng.integers(-30, 30, 1000)).astype(kind)
    keys[::7], keys[1::7], keys[2::7] = 0.0, -0.0, np.inf  # both zeros are equal: they stay in order
    keys[3] = -np.inf
    before = keys.copy()
    np.testing.assert_array_equal(stable_order(keys), np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(keys, before)


def test_several_keys() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.integers(5, size=500), np.round(rng.random(500), 1)
    np.testing.assert_array_equal(stable_order(first, -second), np.lexsort((-second, first)))


def test_runs() -> None:
    first, second = np.array([1, 1, 1, 2, 2, 5]), np.array([0, 0, 3, 3, 3, 3])
    assert starts_of_runs(first).tolist() == [0, 3, 5]
    assert starts_of_runs(first, second).tolist() == [0, 2, 3, 5]
    assert places_in_runs(np.array([3, 0, 2, 1])).tolist() == [0, 1, 2, 0, 1, 0]
