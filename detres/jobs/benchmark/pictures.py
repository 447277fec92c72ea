"""Folders of pictures to time pretraining on, in the layout root/<class>/<image>."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from detres.jobs.benchmark.twins import coco_photos
from detres.wiring import data_root

_PHOTOS = 128
_SMALL_HW, _LARGE_HW = (64, 64), (375, 500)  # those of Tiny ImageNet, and the usual ones of ImageNet


def training_folder(folder: str | None, temporary: Path, count: int) -> tuple[Path, str]:
    """Images to train on, and what they are: `folder`, else Tiny ImageNet below DETRES_DATASETS, else generated.

    `count` images at least are generated, below `temporary`.
    """
    if folder is not None:
        return Path(folder), folder
    if "DETRES_DATASETS" in os.environ and (found := data_root() / "tiny-imagenet-200" / "train").is_dir():
        return found, "Tiny ImageNet"
    return _generate(temporary / "small", count, _SMALL_HW), "generated pictures of 64 x 64"


def photo_folder(temporary: Path, count: int) -> tuple[Path, str]:
    """Photos of the usual size: links below `temporary` to COCO's below DETRES_DATASETS, else generated pictures."""
    photos = coco_photos(_PHOTOS)
    if len(photos) < count:
        return _generate(temporary / "large", count, _LARGE_HW), "generated pictures of 375 x 500"
    target = temporary / "photos" / "all"
    target.mkdir(parents=True)
    for photo in photos:
        (target / photo.name).symlink_to(photo.resolve())
    return target.parent, f"{len(photos)} photos of COCO"


def _generate(folder: Path, count: int, size_hw: tuple[int, int]) -> Path:
    """Smooth random JPEGs of two classes."""
    rng = np.random.default_rng(3)
    height, width = size_hw
    for index in range(count):
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        file = folder / f"class{index % 2}" / f"{index:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, quality=90)
    return folder
