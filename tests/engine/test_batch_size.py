"""Which part of a batch fits: the search, by stand-ins for memory."""

import pytest

from detres.engine.batch_size import DoesNotFit, largest_part


def search(batch_size: int, room: int) -> tuple[int, list[int]]:
    asked: list[int] = []

    def fits(images: int) -> bool:
        asked.append(images)
        return images <= room

    return largest_part(batch_size, fits), asked


@pytest.mark.parametrize("batch_size", [1, 2, 7, 16])
def test_nothing_fits(batch_size):
    with pytest.raises(DoesNotFit, match="not even one image"):
        search(batch_size, 0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 12, 16, 96, 250, 1024])
def test_the_largest_divisor_that_fits_for_every_room(batch_size):
    for room in range(1, batch_size + 1):
        part, asked = search(batch_size, room)
        assert part == max(size for size in range(1, room + 1) if batch_size % size == 0)
        assert len(asked) == len(set(asked)), "no size is tried twice"


def test_sizes_are_doubled_then_bisected():
    assert search(1024, 10**6) == (1024, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
    assert search(16, 5) == (4, [2, 4, 8])
    assert search(96, 20) == (16, [2, 4, 8, 16, 32, 24])
    assert search(16, 1) == (1, [2, 1]), "1 comes last: batch norms cannot always take it"
