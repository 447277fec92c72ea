"""Reading image files: whatever the file holds comes out as (H, W, 3) uint8 RGB, or as one clear error."""

import os
import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from detres.data.decoding import decode, is_reducible, largest_reduction

MAX_PIXELS = 178_956_970
"""Images with more pixels than this (13,377 x 13,377) are refused by their header, before anything is decoded.

A small file can unpack to more memory than there is. It is Pillow's own limit for what it takes to be an attack.
"""


_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX")


class ImageError(ValueError):
    """An image file that cannot be used; the message names the file, the trouble and the remedy."""


class ReadImage(NamedTuple):
    """pixels (h, w, 3) uint8 RGB, and height and width of the whole image: decoding may have reduced it."""

    pixels: np.ndarray
    size_hw: tuple[int, int]
    is_reducible: bool = False  # whether it could be decoded at a part of its size


NeededSize: TypeAlias = Callable[[tuple[int, int]], tuple[float, float] | None]
"""From the size of a whole image to the smallest that will do in its place; None: nothing but the whole image."""


@lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """The formats that are read, whatever a file is called, as far as this Pillow has them.

    Of others Pillow hands some to programs outside (PostScript to Ghostscript), and some nobody has looked after for
    decades.
    """
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def read_image(path: str | os.PathLike[str], expected_size_hw: tuple[int, int] | None = None) -> np.ndarray:
    """The image in `path` as a writable (H, W, 3) uint8 array, RGB.

    Grey, palette, 16-bit, CMYK and transparent images are converted (transparency is dropped, 16 bits are scaled
    to 8). The EXIF orientation is applied, unless only the unrotated image has the size `expected_size_hw`
    (height, width) that the annotation gives: then the boxes were drawn without it.

    Raises ImageError for a file that is missing, empty, truncated, damaged, no image, too large, or of another
    size than expected.
    """
    return read_image_for(path, expected_size_hw).pixels


def read_image_for(
    path: str | os.PathLike[str],
    expected_size_hw: tuple[int, int] | None = None,
    needed: NeededSize | None = None,
) -> ReadImage:
    """The image as read_image returns it or, if it is a JPEG and larger than `needed`, at 1/2, 1/4 or 1/8 of its size.

    Everything else is as in read_image. The pixels have at least the needed height and width. Where a side is no
    multiple of the reduction, the last row or column lies in part outside the image (detres.data.scene heeds that).
    """
    path = os.fspath(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings about odd metadata and large images
        with _open(path) as image:
            orientation = _orientation(image) if _is_oriented(image, expected_size_hw, path) else 1
            size_hw = (image.height, image.width) if orientation < 5 else (image.width, image.height)
            # Turning may bring a side that is rounded up to the top or the left, where nobody expects it.
            reducible = is_reducible(image) and (orientation == 1 or not any(side % 8 for side in size_hw))
            reduction = reduction_for(size_hw, needed if reducible else None)
            try:
                return ReadImage(_turned(_to_rgb(image, path, reduction), orientation), size_hw, reducible)
            except ImageError:
                raise
            except Exception as error:  # decoders raise nearly anything on damaged files
                raise ImageError(
                    f"{path}: the image is truncated or damaged ({error}); fetch or export the file again"
                ) from error


def reduction_for(size_hw: tuple[int, int], needed: NeededSize | None) -> int:
    """At which part of its size (1, 2, 4 or 8) an image of `size_hw` is decoded, if it can be decoded at any."""
    needed_hw = needed(size_hw) if needed is not None else None
    return 1 if needed_hw is None else largest_reduction(size_hw, needed_hw)


_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF orientations, on (H, W, 3)
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as the EXIF orientation says they are to be seen."""
    return pixels if orientation == 1 else np.ascontiguousarray(_TURNS[orientation](pixels))


def read_size_hw(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of the image that read_image returns, from the file's header; ImageError as there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _open(os.fspath(path)) as image:
            return _upright_size_hw(image)


def _open(path: str) -> Image.Image:
    """The opened file with its header read, not yet decoded."""
    try:
        image = Image.open(path, formats=formats())
    except FileNotFoundError:
        raise ImageError(f"{path}: the image file does not exist; check the path of its folder") from None
    except Image.DecompressionBombError as error:  # it counts the pixels, and does not give the sides
        count = next(iter(re.findall(r"\d+", str(error))), "too many")
        raise ImageError(f"{path}: {_too_large(f'{count} pixels')}") from error
    except UnidentifiedImageError:
        raise ImageError(f"{path}: {_what_it_is(path)}; fetch or export the file again") from None
    except OSError as error:
        if error.errno is None:  # a decoder's own, not the system's
            raise ImageError(f"{path}: the image is truncated or damaged ({error}); fetch it again") from error
        raise ImageError(f"{path}: the file cannot be read ({error}); check the path and its permissions") from error
    except Exception as error:  # damaged headers make the format plug-ins raise nearly anything
        raise ImageError(f"{path}: the image header is damaged ({error}); fetch or export the file again") from error
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        image.close()
        raise ImageError(f"{path}: {_too_large(size)}")
    return image


def _too_large(size: str) -> str:
    return f"{size} are more than the limit of {MAX_PIXELS}; resize the image, or cut it and its boxes into tiles"


def _what_it_is(path: str) -> str:
    return "the file is empty (0 bytes)" if os.path.getsize(path) == 0 else "not an image in a known format"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 ... 8; 1 (upright) where there is none or the metadata are damaged."""
    try:
        value: Any = image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata must not cost the image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright_size_hw(image: Image.Image) -> tuple[int, int]:
    quarter_turn = _orientation(image) >= 5
    return (image.width, image.height) if quarter_turn else (image.height, image.width)


def _is_oriented(image: Image.Image, expected_hw: tuple[int, int] | None, path: str) -> bool:
    """Whether to apply the EXIF orientation; ImageError when no orientation gives the expected size."""
    upright, stored = _upright_size_hw(image), (image.height, image.width)
    if expected_hw is None or upright == tuple(expected_hw):
        return _orientation(image) != 1
    if stored == tuple(expected_hw):
        return False
    raise ImageError(
        f"{path}: the image is {upright[1]} x {upright[0]} pixels (width x height), but its annotation says "
        f"{expected_hw[1]} x {expected_hw[0]}; correct the annotation or restore the image it was made for"
    )


def _to_rgb(image: Image.Image, path: str, reduction: int = 1) -> np.ndarray:
    """Decode and convert to (H, W, 3) uint8, at a part of the size where that was found possible."""
    if image.mode in ("RGB", "L"):
        return decode(image, path, reduction)
    if image.mode.startswith("I"):  # 16-bit grey: "I;16", its byte orders, or "I" in older Pillow
        grey = np.array(image).astype(np.int64)
        grey = (grey.clip(0, 65535) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(f"{path}: floating-point pixels have no known range; save the image with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def pil_to_rgb(image: Image.Image) -> np.ndarray:
    """A PIL image, upright, as a writable (H, W, 3) uint8 RGB array; converted as read_image converts files."""
    name = getattr(image, "filename", "") or "the PIL image"
    return _to_rgb(ImageOps.exif_transpose(image), name)
