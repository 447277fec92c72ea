"""Draw boxes with labels on a picture, or labels below it.

Shapes: B boxes; images are (3, H, W) uint8 tensors, (H, W, 3) or (H, W) uint8 arrays, or PIL images.
"""

import colorsys
import importlib.util
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detres.files.plain_text import printable

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, x2 and y2 exclusive

_GOLDEN_RATIO = 0.618033988749895
_LONGEST_NAME = 60  # characters of a class name
_SMALLEST_STRIP = 160  # pixels; narrower pictures have no room for a class name
_WORDNET_ID = re.compile(r"^n\d{8} (?=\S)")  # before the words of an ImageNet class, where there is room for one only
_DARK, _LIGHT = (24, 24, 24), (240, 240, 240)


def draw_boxes(
    image: Any,
    boxes_xyxy: Tensor,
    names: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
    labels: Sequence[int] | None = None,
) -> Image.Image:
    """A copy of `image` with boxes (B, 4) in pixels of it, each with its name and score where given.

    Every label (class) has its own colour. Boxes are cut at the border and those outside it left out; captions stay
    inside the picture, are shortened to fit it, and are left out of pictures too small for any text. The first box
    lies on top, as befits decreasing scores.

    Raises ValueError when names, scores or labels are not one per box, and TypeError for an image of another kind.
    """
    count = len(boxes_xyxy)
    for what, values in (("names", names), ("scores", scores), ("labels", labels)):
        if values is not None and len(values) != count:
            raise ValueError(f"draw_boxes got {count} boxes and {len(values)} {what}: one per box is needed")
    picture = to_pil(image)
    captions = [_caption(names[i] if names else "", scores[i] if scores else None) for i in range(count)]
    colors = [class_color(label) for label in (labels if labels is not None else _number(names, count))]
    shown = [(box, caption, color) for box, caption, color in zip(boxes_xyxy.tolist(), captions, colors, strict=True)]
    visible = [(cut, caption, color) for box, caption, color in shown if (cut := _cut(box, picture.size)) is not None]
    pen = ImageDraw.Draw(picture)
    for rectangle, _, color in reversed(visible):
        _draw_frame(pen, rectangle, color, _line_width(picture.size))
    _draw_captions(pen, visible, picture.size)
    return picture


def draw_labels(
    image: Any,
    names: Sequence[str],
    scores: Sequence[float],
    labels: Sequence[int] | None = None,
    lines: int | None = None,
) -> Image.Image:
    """`image` above a strip with one line per class: name, score, and a bar as long as the score (0..1).

    The picture is not covered; small ones are enlarged by a whole number until a name has room below them. The strip
    has room for `lines` classes (default: as many as are given), so that all pictures of one size stay of one size.
    Raises ValueError when scores or labels are not one per name, and TypeError for an image of another kind.
    """
    labels = _number(names, len(names)) if labels is None else labels
    if not len(names) == len(scores) == len(labels):
        raise ValueError(f"draw_labels got {len(names)} names, {len(scores)} scores and {len(labels)} labels")
    picture, _ = enlarged(image)
    text_font = font(_font_size(picture.size, 12))
    ascent, descent = text_font.getmetrics()
    bar = max(2, ascent // 5)
    line, width = ascent + descent + bar + 4, max(picture.width, _SMALLEST_STRIP)
    canvas = Image.new("RGB", (width, picture.height + line * max(len(names), lines or 0)), _DARK)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    for row, (name, score, label) in enumerate(zip(names, scores, labels, strict=True)):
        y = picture.height + row * line
        figure = f"{score:.2f}"
        right = width - 4 - math.ceil(text_font.getlength(figure))
        pen.text((4, y + 1), _shorten(printable(name), text_font, right - 8), fill=_LIGHT, font=text_font)
        pen.text((right, y + 1), figure, fill=_LIGHT, font=text_font)
        if length := round(width * min(max(score, 0.0), 1.0)):
            top = y + line - bar - 1
            pen.rectangle((0, top, length - 1, top + bar - 1), fill=class_color(label))
    return canvas


def enlarged(image: Any) -> tuple[Image.Image, int]:
    """The picture, a small one enlarged by a whole number until a name has room on it, and that number."""
    picture = to_pil(image)
    factor = -(-_SMALLEST_STRIP // max(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return (picture.resize(size, Image.Resampling.NEAREST) if factor > 1 else picture), factor


def class_color(label: int) -> Color:
    """A bright colour of its own for every label: hues a golden section apart, in four strengths."""
    hue = (0.02 + label * _GOLDEN_RATIO) % 1.0
    saturation, value = ((0.85, 1.0), (0.6, 1.0), (0.95, 0.8), (0.5, 0.85))[label // 8 % 4]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def to_pil(image: Any) -> Image.Image:
    """An RGB picture of its own memory, from any of the kinds of image that this module takes."""
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 and image.shape[0] in (1, 3) else image
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        found = f"{type(image).__name__} of {image.dtype}, shape {image.shape}" if hasattr(image, "dtype") else image
        raise TypeError(f"expected a uint8 tensor (3, H, W), a uint8 array (H, W, 3) or a PIL image, got {found}")
    return Image.fromarray(np.ascontiguousarray(image.squeeze(2) if image.shape[2:] == (1,) else image)).convert("RGB")


@lru_cache(maxsize=16)
def font(size: int) -> Any:
    """A font of `size` pixels: matplotlib's DejaVu Sans (most alphabets) where it is installed, else Pillow's own."""
    spec = importlib.util.find_spec("matplotlib")  # finds the folder without importing the package
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def _caption(name: str, score: float | None) -> str:
    text = _WORDNET_ID.sub("", printable(name, _LONGEST_NAME))
    return text if score is None else f"{text} {score:.2f}".strip()


def _number(names: Sequence[str] | None, count: int) -> list[int]:
    """A number per distinct name, where labels are not known."""
    numbers = {name: number for number, name in enumerate(sorted(set(names or [])))}
    return [numbers[name] for name in names] if names else [0] * count


def _cut(box: Sequence[float], size_wh: tuple[int, int]) -> Rectangle | None:
    """The visible part of a box in whole pixels, at least one wide and high; None for one outside or not finite."""
    width, height = size_wh
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)) or x2 < x1 or y2 < y1:
        return None
    if x2 < 0 or y2 < 0 or x1 >= width or y1 >= height:
        return None
    left, top = round(max(x1, 0.0)), round(max(y1, 0.0))
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(left + 1, min(round(x2), width)), max(top + 1, min(round(y2), height))


def _font_size(size_wh: tuple[int, int], smallest: int = 10) -> int:
    return max(smallest, min(28, round(min(size_wh) / 36)))


def _line_width(size_wh: tuple[int, int]) -> int:
    return max(1, round(min(size_wh) / 180))


def _draw_frame(pen: ImageDraw.ImageDraw, rectangle: Rectangle, color: Color, width: int) -> None:
    """A frame of `color` inside the rectangle, with a thin dark line along it that shows on bright pictures."""
    x1, y1, x2, y2 = rectangle
    if min(x2 - x1, y2 - y1) > 4 * width + 4:
        inner = (x1 + width, y1 + width, x2 - 1 - width, y2 - 1 - width)
        pen.rectangle(inner, outline=(20, 20, 20), width=1)
    pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=color, width=width)


def _draw_captions(
    pen: ImageDraw.ImageDraw, visible: Sequence[tuple[Rectangle, str, Color]], size_wh: tuple[int, int]
) -> None:
    """Captions on plates of their box's colour, placed one after another where they cover no earlier one."""
    text_font = font(_font_size(size_wh))
    ascent, descent = text_font.getmetrics()
    height, pad = ascent + descent + 2, 3
    if height > size_wh[1] / 2:
        return
    plates: list[tuple[Rectangle, str, Color]] = []
    for rectangle, caption, color in visible:
        text = _shorten(caption, text_font, size_wh[0] - 2 * pad)
        if text:
            width = math.ceil(text_font.getlength(text)) + 2 * pad
            plates.append((_place(rectangle, (width, height), size_wh, [p[0] for p in plates]), text, color))
    for (x1, y1, x2, y2), text, color in reversed(plates):
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
        pen.text((x1 + pad, y1 + 1), text, fill=_readable_on(color), font=text_font)


def _shorten(text: str, text_font: Any, limit: float) -> str:
    """The text cut to `limit` pixels with an ellipsis; empty when not even one letter fits."""
    if text_font.getlength(text) <= limit:
        return text
    fits = [n for n in range(1, min(len(text), 200)) if text_font.getlength(f"{text[:n]}…") <= limit]
    return f"{text[: fits[-1]]}…" if fits else ""


def _place(
    box: Rectangle, plate_wh: tuple[int, int], size_wh: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Above the box, inside its top, below it, or inside its bottom: the first free place within the picture."""
    width, height = plate_wh
    x = max(0, min(box[0], size_wh[0] - width))
    tops = [box[1] - height, box[1], box[3], box[3] - height]
    inside = [y for y in tops if 0 <= y <= size_wh[1] - height] or [max(0, min(box[1], size_wh[1] - height))]
    spots = [(x, y, x + width, y + height) for y in inside]
    return next((spot for spot in spots if not any(_overlap(spot, other) for other in taken)), spots[0])


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _readable_on(color: Color) -> Color:
    """Black or white, whichever stands out (luminance of ITU-R BT.601)."""
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)
