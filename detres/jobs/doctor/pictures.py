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
from detres.structures.drawing import class_color, draw_boxes

SIDE = 480  # pixels of the longer side
LENS = 300  # pixels of a side of the enlarged part beside it
_MARGIN = 0.25  # of the longer side, at most, for what lies outside the image
_SMALL = 14  # pixels on the picture, below which a box gets a ring
_ENLARGED = 48  # pixels on the picture; the surroundings of a box with a shorter side are shown enlarged as well
_GAP = 6
OTHERS = (90, 170, 90)  # the colour of the image's other boxes
_CANVAS, _PAPER = (214, 214, 214), (255, 255, 255)

View = tuple[float, float, float, float]  # x1, y1, x2, y2: the part of an image that is shown, in its pixels


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

    Boxes of hardly any size get a ring around them, and small ones are shown enlarged beside it.
    """
    image = _read(shot)
    if image is None:
        return None
    scale = SIDE / max(image.size)
    whole = _draw(image, _whole_view(shot.boxes_xyxy, image.size), scale, shot)
    lens = _lens_view(shot.boxes_xyxy, image.size, scale)
    if lens is None:
        return whole
    part = _draw(image, lens, LENS / (lens[2] - lens[0]), shot)
    both = Image.new("RGB", (whole.width + _GAP + part.width, max(whole.height, part.height)), _PAPER)
    both.paste(whole, (0, 0))
    both.paste(part, (whole.width + _GAP, 0))
    return both


def _draw(image: Image.Image, view: View, scale: float, shot: Shot) -> Image.Image:
    """The view of an image, enlarged, with its boxes."""
    width, height = (max(1, round(scale * (view[axis + 2] - view[axis]))) for axis in (0, 1))
    seen = [max(0, math.floor(view[0])), max(0, math.floor(view[1]))]
    seen += [min(image.width, math.ceil(view[2])), min(image.height, math.ceil(view[3]))]
    size = max(1, round(scale * (seen[2] - seen[0]))), max(1, round(scale * (seen[3] - seen[1])))
    canvas = Image.new("RGB", (width, height), _CANVAS)
    corner = round(scale * (seen[0] - view[0])), round(scale * (seen[1] - view[1]))
    canvas.paste(image.crop((seen[0], seen[1], seen[2], seen[3])).resize(size, Image.Resampling.BILINEAR), corner)
    pen = ImageDraw.Draw(canvas)
    for box in (_moved(box, view, scale) for box in shot.others_xyxy):
        if _is_drawable(box):
            pen.rectangle(box, outline=OTHERS)
    pairs = zip(shot.boxes_xyxy, shot.captions, strict=True)
    kept = [(_ordered(_moved(box, view, scale)), name) for box, name in pairs if all(map(math.isfinite, box))]
    small = [_is_drawable(box) and min(box[2] - box[0], box[3] - box[1]) < _SMALL for box, _ in kept]
    # A caption would cover what is small.
    names = ["" if ringed else name for (_, name), ringed in zip(kept, small, strict=True)]
    boxes = torch.tensor([box for box, _ in kept]).reshape(-1, 4)
    drawn = draw_boxes(canvas, boxes, names, labels=list(range(len(kept))))
    for number, ((x1, y1, x2, y2), _) in enumerate(kept):
        if small[number]:
            _draw_ring(ImageDraw.Draw(drawn), [x1 - 12, y1 - 12, x2 + 12, y2 + 12], class_color(number))
    return drawn


def _draw_ring(pen: ImageDraw.ImageDraw, box: Sequence[float], color: tuple[int, int, int]) -> None:
    """White on both sides, to be seen on whatever is below."""
    pen.ellipse([box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2], outline=_PAPER, width=6)
    pen.ellipse(list(box), outline=color, width=2)


def _read(shot: Shot) -> Image.Image | None:
    """The pixels as the annotation saw them, where the file has that size, else as they are."""
    for expected in (shot.size_hw, None):
        try:
            return Image.fromarray(read_image(shot.path, expected))
        except (ImageError, OSError):
            continue
    return None


def _moved(box: Box, view: View, scale: float) -> list[float]:
    """A box in pixels of the picture."""
    return [scale * (value - view[axis % 2]) for axis, value in enumerate(box)]


def _ordered(box: Sequence[float]) -> list[float]:
    """Corners in order: a box of negative size is shown as well."""
    x1, x2 = sorted((box[0], box[2]))
    y1, y2 = sorted((box[1], box[3]))
    return [x1, y1, x2, y2]


def _whole_view(boxes: Sequence[Box], size_wh: tuple[int, int]) -> View:
    """The image, and room beyond each side for boxes that pass it."""
    finite = [_ordered(box) for box in boxes if all(map(math.isfinite, box))]
    most, rim = _MARGIN * max(size_wh), 0.02 * max(size_wh)
    margins = []
    for axis in range(4):
        beyond = [-box[axis] if axis < 2 else box[axis] - size_wh[axis - 2] for box in finite]
        over = max(beyond, default=0.0)
        margins.append(min(most, over + rim) if over > 0.5 else 0.0)
    return -margins[0], -margins[1], size_wh[0] + margins[2], size_wh[1] + margins[3]


def _lens_view(boxes: Sequence[Box], size_wh: tuple[int, int], scale: float) -> View | None:
    """A square around the first box if that is small on the picture and touches the image, inside of the image."""
    if not boxes or not all(map(math.isfinite, boxes[0])):
        return None
    x1, y1, x2, y2 = _ordered(boxes[0])
    is_outside = x2 < 0 or y2 < 0 or x1 > size_wh[0] or y1 > size_wh[1]
    if is_outside or scale * min(x2 - x1, y2 - y1) >= _ENLARGED:
        return None
    side = max(3 * max(x2 - x1, y2 - y1), max(size_wh) / 10)
    if side > 0.6 * min(size_wh):  # hardly larger than in the picture itself
        return None
    left, top = (
        min(max((low + high - side) / 2, 0.0), limit - side)
        for low, high, limit in ((x1, x2, size_wh[0]), (y1, y2, size_wh[1]))
    )
    return left, top, left + side, top + side


def _is_drawable(box: Sequence[float]) -> bool:
    return all(map(math.isfinite, box)) and box[2] >= box[0] and box[3] >= box[1] and max(map(abs, box)) < 1e6
