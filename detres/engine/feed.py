"""The batches of one step after another, from a loader's stream that can be opened anew at any sample."""

from collections.abc import Iterator
from itertools import islice

from detres.engine.distributed import all_succeed, interleave
from detres.engine.records import Progress, TrainStream
from detres.structures import Batch, BatchNote
from detres.structures.processes import ALONE, Processes


class Feed:
    """Takes the `parts` batches of each step from the stream of `loader`; of several processes each has its own."""

    def __init__(self, loader: TrainStream, parts: int, processes: Processes = ALONE) -> None:
        self._loader, self._parts, self._processes = loader, parts, processes
        self._stream: Iterator[Batch] | None = None

    def open(self, start_sample: int) -> None:
        """Go on from sample `start_sample` of the whole run."""
        self.close()
        self._stream = self._loader.stream(start_sample)

    def take(self, progress: Progress) -> tuple[list[Batch], list[BatchNote]]:
        """All parts of the next step, or none if one of them cannot be had; in one process as in all.

        And notes on the parts of all processes, in the order of the step's images. Batches that were given up
        (progress.recovered) are passed over: progress.samples counts them as seen.
        """
        while True:
            batches, told = all_succeed(self._processes, self._read, lambda read: [batch.note() for batch in read])
            notes = interleave(told)
            if progress.samples not in progress.recovered:
                return batches, notes
            progress.samples += sum(len(note) for note in notes)

    def close(self) -> None:
        """End the stream, and with it the loader's workers."""
        getattr(self._stream, "close", lambda: None)()
        self._stream = None

    def _read(self) -> list[Batch]:
        assert self._stream is not None, "open comes before take"
        batches = list(islice(self._stream, self._parts))
        assert len(batches) == self._parts, "the loader's stream must not end"
        return batches
