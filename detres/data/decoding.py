"""From an opened image file to pixels: JPEGs by the fastest decoder, by option at a part of their size.

Shapes: H, W height and width of the whole image, k a reduction (1, 2, 4 or 8).
"""

import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

REDUCTIONS = (8, 4, 2)
"""Parts of its size at which a JPEG can be decoded: its blocks of 8 x 8 pixels are then transformed to smaller ones."""

MARGIN = 1.5
"""How much larger than needed an image stays when it is reduced in decoding; the rest is done by resizing.

Against resizing the whole image, COCO's photographs then differ by less than 1 of 255 grey levels in the mean, by at
most 2.1 in an image's mean, and by less than 30 in any pixel (tests/data/test_decoding.py); bicubic resizing in place
of bilinear makes more of a difference in the mean.
"""

_PLAIN = ("RGB", "L")  # modes of JPEG files that need nothing but decoding


def reduced_hw(size_hw: tuple[int, int], reduction: int) -> tuple[int, int]:
    """Height and width of the pixels of an image of `size_hw` that is decoded at 1/k: rounded up."""
    return -(-size_hw[0] // reduction), -(-size_hw[1] // reduction)


def reduction_of(pixels_hw: tuple[int, ...], size_hw: tuple[int, int]) -> int:
    """The k at which an image of `size_hw` was decoded into pixels of `pixels_hw`."""
    for reduction in (1, *reversed(REDUCTIONS)):
        if reduced_hw(size_hw, reduction) == tuple(pixels_hw[:2]):
            return reduction
    raise AssertionError(f"pixels of {tuple(pixels_hw[:2])} are no reduction of {size_hw}")


def largest_reduction(size_hw: tuple[int, int], needed_hw: tuple[float, float]) -> int:
    """The largest k of which 1/k of an image of `size_hw` still has MARGIN times `needed_hw`; 1 if there is none."""
    for reduction in REDUCTIONS:
        if all(side >= reduction * max(MARGIN * need, 1) for side, need in zip(size_hw, needed_hw, strict=True)):
            return reduction
    return 1


def is_reducible(image: Image.Image) -> bool:
    """Whether decode can give an opened image a part of its size."""
    return image.format == "JPEG" and image.mode in _PLAIN


def decode(image: Image.Image, path: str, reduction: int = 1) -> np.ndarray:
    """The pixels of an opened image of a plain mode, (H, W, 3) or reduced_hw, uint8 RGB; raises whatever Pillow raises.

    JPEGs at full size go through torchvision, which decodes the same bits as Pillow but needs no further copies. What
    it refuses goes to Pillow, so that one library has the last word on damaged files.
    """
    if is_reducible(image):
        if reduction == 1 and (pixels := _decode_whole(path, (image.height, image.width))) is not None:
            return pixels
        if reduction > 1:
            image.draft(image.mode, (image.width // reduction, image.height // reduction))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def load_libraries() -> None:
    """Import what decoding and resizing need: once before workers are forked, and not in each of them."""
    import cv2  # noqa: F401

    _jpeg_decoder()


@lru_cache(maxsize=1)
def _jpeg_decoder() -> Any:
    """torchvision's, which it means to give up one day; None where it has."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg  # not sooner: importing it takes a while
    except ImportError:
        return None
    return lambda data: decode_jpeg(data, mode=ImageReadMode.RGB)


def _decode_whole(path: str | os.PathLike[str], size_hw: tuple[int, int]) -> np.ndarray | None:
    """The pixels of a JPEG file; None where torchvision cannot decode it, or not any JPEG."""
    decoder = _jpeg_decoder()
    if decoder is None:
        return None
    try:
        pixels = decoder(torch.from_numpy(np.fromfile(path, dtype=np.uint8)))
    except (RuntimeError, OSError):
        return None
    found: np.ndarray = pixels.permute(1, 2, 0).numpy()  # as it lies in memory: no copy
    return found if found.shape == (*size_hw, 3) and found.flags.c_contiguous else None
