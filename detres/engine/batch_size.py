"""The largest part of a batch that fits into memory, so that a batch of a given size can be trained on any machine."""

from collections.abc import Callable


class DoesNotFit(ValueError):
    """Not even one image can be trained on in the memory that there is."""


def largest_part(batch_size: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of `batch_size` that `fits`: the batch is then processed in `batch_size` / that many parts.

    Sizes are doubled (as far as divisors allow) until one does not fit, then the gap is bisected; what is smaller than
    a size that fits is taken to fit. The first size tried is 2, where it divides: batch norms cannot always take 1.
    Raises DoesNotFit when not even one image fits.
    """
    sizes = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    fitting, failing = -1, len(sizes)  # indices into sizes: the largest known to fit, the smallest known not to
    trying = max(index for index, size in enumerate(sizes) if size <= 2)
    while fitting + 1 < failing:
        if fits(sizes[trying]):
            fitting = trying
        else:
            failing = trying
        if failing < len(sizes):
            trying = (fitting + failing) // 2
        else:
            trying = max([fitting + 1, *(i for i, size in enumerate(sizes) if size <= 2 * sizes[fitting])])
    if fitting < 0:
        raise DoesNotFit("not even one image fits into the memory")
    return sizes[fitting]
