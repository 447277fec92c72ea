"""ImageCache: decoded images in memory, shared by the processes that read them.

The memory is mapped before workers are forked, so that all of them, and those that follow, see the same images.
"""

import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from detres.data.decoding import reduction_of
from detres.data.image_io import NeededSize, ReadImage, reduction_for

MIB = 2**20
_NONE, _RESERVED, _KEPT = range(3)
_STATE, _OFFSET, _PIXELS, _SIZE, _REDUCIBLE, _FIELDS = 0, 1, slice(2, 4), slice(4, 6), 6, 7  # columns of an entry


class ImageCache:
    """Keeps decoded images until `mebibytes` are full, first come first kept.

    num_images  of the data set whose images are kept, by their index

    Nothing is dropped to make room: an epoch takes every image once, in another order each time, so keeping one part
    of them saves as much as keeping another, and replacing them would only cost. Images come out as they went in, to
    the bit. Where workers are not forked (macOS, Windows) theirs keep nothing.
    """

    def __init__(self, num_images: int, mebibytes: int) -> None:
        self.mebibytes = mebibytes
        self._open(num_images)

    def _open(self, num_images: int) -> None:
        # Not in /dev/shm, which containers keep small. The system gives memory page by page as it is written to.
        self._pixels = np.frombuffer(mmap.mmap(-1, max(self.mebibytes * MIB, 1)), dtype=np.uint8)
        table = np.frombuffer(mmap.mmap(-1, (num_images * _FIELDS + 1) * 8), dtype=np.int64)
        self._used, self._entries = table[:1], table[1:].reshape(num_images, _FIELDS)
        self._lock_file = TemporaryFile()  # noqa: SIM115  # open as long as the cache lives

    def __getstate__(self) -> dict[str, Any]:
        return {"num_images": len(self._entries)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.mebibytes = 0
        self._open(state["num_images"])

    @property
    def bytes_used(self) -> int:
        """How many bytes of pixels are kept; never more than `mebibytes`."""
        return int(self._used[0])

    @property
    def num_kept(self) -> int:
        """How many images are kept."""
        return int(np.count_nonzero(self._entries[:, _STATE] == _KEPT))

    def get(self, index: int, needed: NeededSize | None) -> ReadImage | None:
        """A copy of the image, if it is kept, and in the size in which it would be decoded now."""
        with self._locked():
            entry = self._entries[index].copy()
        if entry[_STATE] != _KEPT:
            return None
        height, width = entry[_PIXELS].tolist()
        size_hw = (int(entry[_SIZE][0]), int(entry[_SIZE][1]))
        is_reducible = bool(entry[_REDUCIBLE])
        if reduction_of((height, width), size_hw) != reduction_for(size_hw, needed if is_reducible else None):
            return None
        start = int(entry[_OFFSET])
        kept = self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        return ReadImage(kept.copy(), size_hw, is_reducible)

    def put(self, index: int, image: ReadImage) -> None:
        """Keep a copy of the image, if it is not kept yet and there is room."""
        entry, size = self._entries[index], image.pixels.size
        with self._locked():
            start = int(self._used[0])
            if entry[_STATE] != _NONE or start + size > self.mebibytes * MIB:
                return
            self._used[0] += size
            entry[:] = (_RESERVED, start, *image.pixels.shape[:2], *image.size_hw, image.is_reducible)
        self._pixels[start : start + size] = image.pixels.reshape(-1)
        with self._locked():
            entry[_STATE] = _KEPT

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time. A lock of the system's, which lets go of it when a process is killed."""
        if sys.platform == "win32":  # no workers share this
            yield
            return
        import fcntl

        fcntl.lockf(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock_file, fcntl.LOCK_UN)


def describe_cache(mebibytes: int, sizes_hw: np.ndarray) -> str:
    """One line on how many images of `sizes_hw` (N, 2) fit into a cache, should none of them be reduced."""
    needed = np.asarray(sizes_hw, dtype=np.float64).reshape(-1, 2).prod(axis=1) * 3 / MIB
    count, total = len(needed), float(needed.sum())
    if total <= mebibytes:
        return f"data.cache: {mebibytes} MiB; all {count} images fit ({total:,.0f} MiB decoded)"
    fitting = int(count * mebibytes / total)
    return f"data.cache: {mebibytes} MiB; about {fitting} of {count} images fit ({total:,.0f} MiB decoded)"
