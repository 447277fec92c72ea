"""What users hand in as an image - paths, arrays, tensors, PIL images - as one kind of array.

Shapes: H, W height and width.
"""

from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from detres.data.image_io import pil_to_rgb, read_image

ImageInput: TypeAlias = str | Path | np.ndarray | Tensor | Image

_ROUNDING = 1e-3  # resizing may overshoot 0..1 by this much


def to_rgb_array(image: ImageInput) -> np.ndarray:
    """Any kind of input image as an (H, W, 3) uint8 RGB array. Raises ValueError or TypeError naming what was given."""
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image):
        return pil_to_rgb(image)
    if isinstance(image, Tensor):
        return _tensor_to_array(image)
    if isinstance(image, np.ndarray):
        return _checked_array(image)
    raise TypeError(
        f"an image must be a path, an (H, W, 3) uint8 array, a (3, H, W) tensor or a PIL image, "
        f"got {type(image).__name__}"
    )


def _checked_array(image: np.ndarray) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size:
        return np.require(image, requirements=["C", "W"])  # torch wants to be able to write
    raise ValueError(
        f"an image array must be (H, W, 3), uint8, RGB; got shape {image.shape}, {image.dtype}. "
        + _batch_hint(image.ndim, "Convert it, for instance with PIL.Image.fromarray, or give the file's path")
    )


def _tensor_to_array(image: Tensor) -> np.ndarray:
    if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
        remedy = "Use tensor.permute(2, 0, 1)" if image.dim() == 3 and image.shape[2] == 3 else "Convert it"
        raise ValueError(
            f"an image tensor must be (3, H, W), RGB; got shape {tuple(image.shape)}. "
            + _batch_hint(image.dim(), remedy)
        )
    image = image.detach().cpu()
    if image.is_floating_point():
        low, high = (float(value) for value in image.aminmax())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # false for NaN, too
            raise ValueError(
                f"a float image tensor must lie in 0..1, found {low:g}..{high:g}; "
                "give 0..255 as uint8, and do not normalise: the model does it"
            )
        image = (image.float() * 255).round().clamp(0, 255).to(torch.uint8)
    if image.dtype != torch.uint8:
        raise ValueError(f"an image tensor must be uint8 (0..255) or float (0..1), got {image.dtype}")
    return image.permute(1, 2, 0).contiguous().numpy()


def _batch_hint(dimensions: int, otherwise: str) -> str:
    return "For several images, give a list of them" if dimensions == 4 else otherwise
