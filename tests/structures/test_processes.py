"""Shares of a batch: counts and neighbours across processes."""

import torch

from detres.structures.processes import ALONE, batch_count, next_in_batch, one_batch
from tests.together import run_together


def test_alone() -> None:
    with one_batch(ALONE):
        assert batch_count(torch.tensor(0)).item() == 1 and batch_count(torch.tensor(7)).item() == 7
        assert next_in_batch(torch.arange(4)).tolist() == [1, 2, 3, 0]
        assert next_in_batch(torch.zeros(0, 2)).shape == (0, 2)


def test_a_batch_in_shares() -> None:
    def share(processes):
        outside = batch_count(torch.tensor(5)).item(), next_in_batch(torch.arange(2)).tolist()
        with one_batch(processes):
            empty, one = batch_count(torch.tensor(0)).item(), batch_count(torch.tensor(processes.rank)).item()
            images = torch.arange(2 * processes.rank, 2 * processes.rank + 2)
            return outside, empty, one, next_in_batch(images).tolist()

    outside = (5, [1, 0])
    third = torch.tensor(1 / 3).item()
    assert run_together(3, share) == [
        (outside, third, 1.0, [1, 2]),
        (outside, third, 1.0, [3, 4]),
        (outside, third, 1.0, [5, 0]),
    ]
