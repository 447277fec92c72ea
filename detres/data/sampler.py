"""Which images make up which batch: an endless stream of samples whose position is all that a checkpoint needs.

Epochs are permutations one after the other; step s takes samples s * B ... (s + 1) * B - 1 of that stream. So every
image comes exactly once per epoch (or as often as its repeat factor says), and every batch is full. Shapes: N images.
"""

from collections.abc import Iterator

import numpy as np

from detres.data.samples import SampleKey
from detres.structures.random import derive_seed


class TrainSampler:
    """Batches of sample keys; the order of an epoch depends on the seed and the epoch's number alone.

    batch_size      images per step, over all ranks and micro-batches
    aspect_ratios   (N,) width / height: batches hold either landscape or portrait images, which saves padding
    repeat_factors  (N,) >= 1: how often an image comes per epoch on average (see views.repeat_factors)
    micro_batches   parts of a step that are processed one after the other
    rank            this process's part of every micro-batch, of `world_size`
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        *,
        aspect_ratios: np.ndarray | None = None,
        repeat_factors: np.ndarray | None = None,
        micro_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_images < 1:
            raise ValueError("the training set is empty: there is nothing to sample")
        if batch_size < 1 or batch_size % (micro_batches * world_size):
            raise ValueError(
                f"batch_size {batch_size} cannot be split into {micro_batches} micro-batches on {world_size} "
                f"processes; choose a multiple of {micro_batches * world_size}"
            )
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        for name, values in (("aspect_ratios", aspect_ratios), ("repeat_factors", repeat_factors)):
            assert values is None or len(values) == num_images, f"{name}: {values} for {num_images} images"
        self.batch_size = batch_size
        self._num_images, self._seed = num_images, seed
        self._landscape = None if aspect_ratios is None else np.asarray(aspect_ratios) >= 1
        self._repeats = None if repeat_factors is None else np.asarray(repeat_factors, dtype=np.float64)
        self._micro_batches, self._rank, self._world_size = micro_batches, rank, world_size
        self.epoch_size = num_images if self._repeats is None else int(round(float(self._repeats.sum())))

    def batches(self, start_sample: int = 0) -> Iterator[list[SampleKey]]:
        """This rank's micro-batches from sample number `start_sample` of the stream on, without end."""
        share = self.batch_size // (self._micro_batches * self._world_size)
        stream = self._samples(start_sample)
        while True:
            step = [next(stream) for _ in range(self.batch_size)]
            for micro in range(self._micro_batches):
                first = (micro * self._world_size + self._rank) * share
                yield step[first : first + share]

    def epoch_order(self, epoch: int) -> np.ndarray:
        """The images of an epoch (epoch_size,) int64, in order."""
        generator = np.random.default_rng(derive_seed(self._seed, epoch))
        images = generator.permutation(self._epoch_images(generator))
        return images if self._landscape is None else self._group(images, epoch, generator)

    def _samples(self, start: int) -> Iterator[SampleKey]:
        epoch, position = divmod(start, self.epoch_size)
        while True:
            for index in self.epoch_order(epoch)[position:].tolist():
                yield SampleKey(index, epoch, position)
                position += 1
            epoch, position = epoch + 1, 0

    def _epoch_images(self, generator: np.random.Generator) -> np.ndarray:
        """Image indices, each as often as it comes in this epoch: its factor rounded down or up, to a fixed total."""
        images = np.arange(self._num_images)
        if self._repeats is None:
            return images
        whole = np.floor(self._repeats).astype(np.int64)
        extra = self.epoch_size - int(whole.sum())
        fraction = generator.permutation(images)
        # Systematic sampling: `extra` equally spaced points on the summed-up fractions, in random order of the images.
        ends = np.cumsum((self._repeats - whole)[fraction])
        if extra > 0:
            points = (np.arange(extra) + generator.random()) * (ends[-1] / extra)
            np.add.at(whole, fraction[np.minimum(np.searchsorted(ends, points, side="right"), len(ends) - 1)], 1)
        return np.repeat(images, whole)

    def _group(self, images: np.ndarray, epoch: int, generator: np.random.Generator) -> np.ndarray:
        """The same images so arranged that the step's batches are of one orientation, as far as they can be."""
        assert self._landscape is not None
        size = self.batch_size
        head = min(-epoch * self.epoch_size % size, len(images))  # completes the last batch of the epoch before
        rest = images[head:]
        wide = self._landscape[rest]
        groups, leftovers = [], []
        for group in (rest[wide], rest[~wide]):
            full = len(group) // size * size
            groups.append(group[:full].reshape(-1, size))
            leftovers.append(group[full:])
        blocks = generator.permutation(np.concatenate(groups))
        return np.concatenate([images[:head], blocks.reshape(-1), *leftovers])
