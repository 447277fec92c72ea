"""Reading every image file once: can it be read, how large is it, and which content does it have?"""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from detres.data.image_io import ImageError, read_image
from detres.files.plain_text import printable
from detres.jobs.doctor.boxes import shots_of
from detres.jobs.doctor.findings import Example, Findings
from detres.jobs.doctor.records import NO_SIZE, Split

Progress = Callable[[int, int | None, str], None]
_CHUNK = 1 << 20


class Reading(NamedTuple):
    """What reading an image gave.

    trouble    "", "missing" or "unreadable"; `message` says why
    size_hw    upright, as training sees it where the annotation gives no size
    file_hash  of the bytes; empty for what is no file of its own
    pixels     hash of the size and the pixels
    """

    trouble: str = ""
    message: str = ""
    size_hw: tuple[int, int] | None = None
    file_hash: bytes = b""
    pixels: bytes = b""


def read_images(splits: Sequence[Split], progress: Progress, workers: int) -> dict[str, Reading]:
    """The reading of every image by its path, each file once; decoding runs in `workers` threads."""
    wanted: dict[str, Callable[[], np.ndarray] | None] = {}
    for split in splits:
        for position, image in enumerate(split.images):
            if image.path:
                wanted.setdefault(image.path, _in_memory(split, position))
    readings: dict[str, Reading] = {}
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        # read_image silences Pillow in each thread; the filters are put back here, once all threads are done.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for done, (path, reading) in enumerate(zip(wanted, pool.map(_read, *_columns(wanted)), strict=True), 1):
                readings[path] = reading
                progress(done, len(wanted), printable(os.path.basename(path)))
    finally:
        pool.shutdown(cancel_futures=True)
    return readings


def check_images(splits: Sequence[Split], readings: dict[str, Reading], findings: Findings) -> None:
    """Which images are missing, cannot be read, or are of another size than their annotation says."""
    for split in splits:
        for position, image in enumerate(split.images):
            reading = readings.get(image.path)
            if reading is None:
                continue
            where = f"{split.name}: image {image.id!r}"
            if reading.trouble:
                findings.add(f"{reading.trouble}_images", f"{where}: {reading.message}")
            elif trouble := size_trouble(image.path, image.size_hw, reading):
                shots = shots_of(split, [], position)
                findings.add_all("image_sizes", 1, [Example(f"{where}: {trouble}", shots)])
    for key in ("missing_images", "unreadable_images", "image_sizes"):
        if key in findings.by_key:
            findings.by_key[key].of = sum(len(split.images) for split in splits)


def size_trouble(path: str, expected_hw: tuple[int, int] | None, reading: Reading) -> str:
    """Why a readable image does not have the annotated size, in words; "" where it has."""
    if expected_hw is None or reading.size_hw == expected_hw:
        return ""
    try:
        read_image(path, expected_hw)  # the unrotated image may have it
    except ImageError as error:
        return str(error)
    return ""


def usable_images(split: Split, readings: dict[str, Reading]) -> np.ndarray:
    """Which images (N,) bool can be read and have the annotated size, where one is given."""
    good = []
    for image in split.images:
        reading = readings.get(image.path)
        is_read = reading is not None and not reading.trouble
        good.append(is_read and not size_trouble(image.path, image.size_hw, reading or Reading()))
    return np.array(good, dtype=bool)


def sizes_of(split: Split, readings: dict[str, Reading]) -> np.ndarray:
    """Height and width (N, 2) int64 of the images as annotated, else of the files, else without bound."""
    sizes = [
        image.size_hw or readings.get(image.path, Reading()).size_hw or (NO_SIZE, NO_SIZE) for image in split.images
    ]
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _in_memory(split: Split, position: int) -> Callable[[], np.ndarray] | None:
    read = split.read
    return None if read is None else lambda: read(position)


def _columns(wanted: dict[str, Callable[[], np.ndarray] | None]) -> tuple[list[str], list[Any]]:
    return list(wanted), list(wanted.values())


def _read(path: str, from_memory: Callable[[], np.ndarray] | None) -> Reading:
    if from_memory is None and not os.path.exists(path):
        return Reading("missing", f"{path} does not exist")
    if from_memory is None and not os.path.isfile(path):  # a pipe would be waited for without end
        return Reading("unreadable", f"{path} is no file")
    try:
        pixels = read_image(path) if from_memory is None else from_memory()
        file_hash = _hash_file(path) if from_memory is None else b""
    except (ImageError, OSError) as error:
        return Reading("unreadable", str(error))
    size_hw = (pixels.shape[0], pixels.shape[1])
    own = hashlib.sha256(f"{size_hw}".encode())
    own.update(np.ascontiguousarray(pixels).data)
    return Reading("", "", size_hw, file_hash, own.digest())


def _hash_file(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()
