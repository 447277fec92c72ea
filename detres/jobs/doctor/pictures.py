"""Pictures of single cases, as JPEG data that a page can hold.

Shapes: B boxes.
"""

import base64
import io
import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw

from detres.data.image_io import ImageError, read_image
from detres.jobs.doctor.findings import Box, Shot
from detres.structures.drawing import draw_boxes

SIDE = 420  # pixels of the longer side
_MARGIN = 0.25  # of the longer side, at most, for what lies outside the image
_SMALL = 14  # pixels on the picture, below which a box gets a ring
_CANVAS, _RING, _OTHERS = (214, 214, 214), (255, 40, 40), (90, 170, 90)


def data_uri(shot: Shot) -> str | None:
    """The picture as a `data:` address; None when the image cannot be read."""
    picture = draw_shot(shot)
    if picture is None:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def draw_shot(shot: Shot) -> Image.Image | None:
    """The image with its other boxes thin and the boxes in question framed, on a canvas that shows what lies outside.

    Boxes of hardly any size get a ring around them.
    """
    image = _read(shot)
    if image is None:
        return None
    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    factors = size[0] / image.width, size[1] / image.height
    boxes, others = ([_scaled(box, factors) for box in group] for group in (shot.boxes_xyxy, shot.others_xyxy))
    left, top, right, bottom = _margins(boxes, size)
    canvas = Image.new("RGB", (size[0] + left + right, size[1] + top + bottom), _CANVAS)
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR), (left, top))
    pen = ImageDraw.Draw(canvas)
    for box in others:
        if _is_drawable(box):
            pen.rectangle([box[0] + left, box[1] + top, box[2] + left, box[3] + top], outline=_OTHERS)
    kept = [(box, name) for box, name in zip(boxes, shot.captions, strict=True) if all(map(math.isfinite, box))]
    moved = [_ordered([box[0] + left, box[1] + top, box[2] + left, box[3] + top]) for box, _ in kept]
    ringed = [_is_drawable(box) and min(box[2] - box[0], box[3] - box[1]) < _SMALL for box in moved]
    # A caption would cover what is small.
    names = ["" if small else name for (_, name), small in zip(kept, ringed, strict=True)]
    drawn = draw_boxes(canvas, torch.tensor(moved).reshape(-1, 4), names, labels=[0] * len(kept))
    pen = ImageDraw.Draw(drawn)
    for (x1, y1, x2, y2), small in zip(moved, ringed, strict=True):
        if small:
            pen.ellipse([x1 - 12, y1 - 12, x2 + 12, y2 + 12], outline=_RING, width=2)
    return drawn


def _read(shot: Shot) -> Image.Image | None:
    """The pixels as the annotation saw them, where the file has that size, else as they are."""
    for expected in (shot.size_hw, None):
        try:
            return Image.fromarray(read_image(shot.path, expected))
        except (ImageError, OSError):
            continue
    return None


def _scaled(box: Box, factors: tuple[float, float]) -> list[float]:
    return [box[0] * factors[0], box[1] * factors[1], box[2] * factors[0], box[3] * factors[1]]


def _ordered(box: Sequence[float]) -> list[float]:
    """Corners in order: a box of negative size is shown as well."""
    x1, x2 = sorted((box[0], box[2]))
    y1, y2 = sorted((box[1], box[3]))
    return [x1, y1, x2, y2]


def _margins(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """How much canvas there is beyond each side, for boxes that pass it."""
    finite = [_ordered(box) for box in boxes if all(map(math.isfinite, box))]
    most = round(_MARGIN * max(size))
    over = [
        max((f(box) for box in finite), default=0.0)
        for f in (
            lambda box: -box[0],
            lambda box: -box[1],
            lambda box: box[2] - size[0],
            lambda box: box[3] - size[1],
        )
    ]
    left, top, right, bottom = (min(most, math.ceil(value) + 8) if value > 0.5 else 0 for value in over)
    return left, top, right, bottom


def _is_drawable(box: Sequence[float]) -> bool:
    return all(map(math.isfinite, box)) and box[2] >= box[0] and box[3] >= box[1] and max(map(abs, box)) < 1e6
