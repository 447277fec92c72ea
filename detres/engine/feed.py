"""The batches of one step after another, from a loader's stream that can be opened anew at any sample."""

from collections.abc import Iterator
from itertools import islice

from detres.engine.records import Progress, TrainStream
from detres.structures import Batch


class Feed:
    """Takes the `parts` batches of each step from the stream of `loader`."""

    def __init__(self, loader: TrainStream, parts: int) -> None:
        self._loader, self._parts = loader, parts
        self._stream: Iterator[Batch] | None = None

    def open(self, start_sample: int) -> None:
        """Go on from sample `start_sample` of the whole run."""
        self.close()
        self._stream = self._loader.stream(start_sample)

    def take(self, progress: Progress) -> list[Batch]:
        """All parts of the next step, or none if one of them cannot be had.

        Batches that were given up (progress.recovered) are passed over: progress.samples counts them as seen.
        """
        assert self._stream is not None, "open comes before take"
        while True:
            batches = list(islice(self._stream, self._parts))
            assert len(batches) == self._parts, "the loader's stream must not end"
            if progress.samples not in progress.recovered:
                return batches
            progress.samples += sum(len(batch) for batch in batches)

    def close(self) -> None:
        """End the stream, and with it the loader's workers."""
        getattr(self._stream, "close", lambda: None)()
        self._stream = None
