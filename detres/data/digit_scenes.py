"""Pictures of handwritten digits on photographs: how one scene of the embedded data set is drawn.

The scans (8x8, scikit-learn's `load_digits`) are enlarged smoothly, rotated, sheared and pasted on crops of the two
photographs of `load_sample_images`. Every picture is a function of the random generator that it is given.

Shapes: H, W height and width of the picture; h, w of one digit's patch.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_TRAIN_SIDE, _TEST_SIDE = (0.0, 0.68), (0.70, 1.0)  # shares of a photograph's width; the gap belongs to nobody


class Scans(NamedTuple):
    """The handwriting of one split: images (M, 8, 8) in [0, 1] and labels (M,) 0 ... 9."""

    images: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """What a split may draw from: its scans and its parts of the photographs (H, W, 3) uint8 RGB."""

    scans: Scans
    photos: tuple[Pixels, ...]


@dataclass(frozen=True)
class SceneObject:
    """One annotated thing: its class, the pixels (H, W) of its visible ink, and whether it stands for a crowd."""

    label: int
    mask: Mask
    crowd: bool = False


@dataclass
class Canvas:
    """A picture being drawn.

    image  (H, W, 3) float32 RGB in [0, 255]
    owner  (H, W) number of the digit whose ink is seen there, 0 for none
    inked  ink pixels of each digit before anything covered it; inked[i - 1] belongs to owner i
    """

    image: Floats
    owner: NDArray[np.int32]
    inked: list[int] = field(default_factory=list)


@cache
def load_source(split: str) -> Source:
    """The scans and photograph parts of "train", "val" or "test".

    Of every class, scans number 4, 9, 14 ... are test and 3, 13, 23 ... are val, whatever the seed, so that data sets
    of different seeds never mix them. Test has the right-hand side of the photographs, the others the left.
    """
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    rank = np.zeros(len(digits.target), dtype=np.int64)
    for label in range(10):
        of_label = np.flatnonzero(digits.target == label)
        rank[of_label] = np.arange(len(of_label))
    role = np.where(rank % 5 == 4, "test", np.where(rank % 10 == 3, "val", "train"))
    scans = Scans((digits.images[role == split] / 16).astype(np.float32), digits.target[role == split].astype(np.int64))
    left, right = _TEST_SIDE if split == "test" else _TRAIN_SIDE
    photos = tuple(
        np.ascontiguousarray(photo[:, int(left * photo.shape[1]) : int(right * photo.shape[1])])
        for photo in load_sample_images().images
    )
    return Source(scans, photos)


def draw_background(
    photos: tuple[Pixels, ...], size_hw: tuple[int, int], share: tuple[float, float], rng: np.random.Generator
) -> Floats:
    """A crop (H, W, 3) of one photograph: flipped, recoloured, blurred and flattened at random.

    `share` bounds the side of the crop, relative to the largest that fits.
    """
    photo = photos[rng.integers(len(photos))]
    largest = min(photo.shape[0] / size_hw[0], photo.shape[1] / size_hw[1])
    scale = largest * rng.uniform(*share)
    height, width = (max(1, int(side * scale)) for side in size_hw)
    top, left = rng.integers(photo.shape[0] - height + 1), rng.integers(photo.shape[1] - width + 1)
    crop = photo[top : top + height, left : left + width]
    picture = cv2.resize(crop, size_hw[::-1], interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    if rng.random() < 0.4:
        picture = picture[..., rng.permutation(3)]
    picture = np.ascontiguousarray(picture, dtype=np.float32)
    if rng.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 2.5))
    mean = picture.mean(axis=(0, 1))
    faded = mean + (picture - mean) * rng.uniform(0.45, 1.0) + rng.uniform(-40, 40)
    return np.asarray(np.clip(faded, 0, 255), dtype=np.float32)


def render_digit(scan: Floats, height: float, rng: np.random.Generator) -> Floats:
    """The coverage (h, w) in [0, 1] of a scan (8, 8) enlarged to about `height` pixels, turned and sheared a little."""
    rows = np.flatnonzero(scan.max(axis=1) > 0.4)
    scale = height / (rows[-1] - rows[0] + 1)
    angle = np.deg2rad(np.clip(rng.normal(0, 9), -25, 25))
    shape = np.array([[rng.uniform(0.9, 1.3), rng.uniform(-0.15, 0.15)], [0, 1]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ shape * scale
    side = int(np.ceil(np.abs(matrix).sum(axis=1).max() * 10)) + 2
    affine = np.column_stack([matrix, (side - 1) / 2 - matrix @ np.full(2, 3.5)])
    enlarged = cv2.warpAffine(scan, affine, (side, side), flags=cv2.INTER_CUBIC)
    if scale > 1.5:
        enlarged = cv2.GaussianBlur(enlarged, (0, 0), 0.22 * scale)
    # A pen's edge is about two pixels wide at every size: the larger the digit, the steeper the ramp.
    steepness = max(1.6, 0.55 * scale)
    coverage = np.clip(0.5 + (enlarged - rng.uniform(0.40, 0.52)) * steepness, 0, 1)
    return _trimmed(coverage.astype(np.float32))


def draw_scene(source: Source, size_hw: tuple[int, int], rng: np.random.Generator) -> tuple[Pixels, list[SceneObject]]:
    """A scene (H, W, 3) uint8 RGB with 0 to 8 digits: 4 % are empty, 5 % hold a crowd, 4 % of the digits are tiny."""
    canvas = Canvas(draw_background(source.photos, size_hw, (0.35, 1.0), rng), np.zeros(size_hw, dtype=np.int32))
    crowds = [_draw_crowd(canvas, source.scans, rng)] if rng.random() < 0.05 else []
    wanted = 0 if rng.random() < 0.04 else int(rng.integers(1, 9))
    labels: dict[int, int] = {}
    unit = min(size_hw) / 160
    for _ in range(wanted):
        tiny = rng.random() < 0.04
        height = unit * (rng.uniform(9, 14) if tiny else np.exp(rng.uniform(np.log(22), np.log(60))))
        pick = rng.integers(len(source.scans.labels))
        coverage = render_digit(source.scans.images[pick], height, rng)
        crowd_masks = [crowd.mask for crowd in crowds]
        if (corner := _find_place(canvas, coverage, crowd_masks, rng)) is not None:
            paste(canvas, coverage, corner, rng)
            labels[len(canvas.inked)] = int(source.scans.labels[pick])
    digits = [SceneObject(label, _without_specks(canvas.owner == number)) for number, label in labels.items()]
    return _developed(canvas.image, rng), [thing for thing in digits + crowds if thing.mask.any()]


def draw_crop(source: Source, label: int, size: int, rng: np.random.Generator) -> Pixels:
    """A picture (size, size, 3) uint8 RGB of one whole digit of class `label`; pieces of others may show at its rim."""
    image = draw_background(source.photos, (size, size), (0.1, 0.35), rng)
    canvas = Canvas(image, np.zeros((size, size), dtype=np.int32))
    for _ in range(rng.integers(0, 3)):
        _draw_fragment(canvas, source.scans, rng)
    pick = rng.choice(np.flatnonzero(source.scans.labels == label))
    coverage = render_digit(source.scans.images[pick], size * rng.uniform(0.5, 0.9), rng)
    largest = max(coverage.shape)
    if largest > size:
        shrunk = (int(coverage.shape[1] * size / largest), int(coverage.shape[0] * size / largest))
        coverage = cv2.resize(coverage, shrunk, interpolation=cv2.INTER_AREA).astype(np.float32)
    room = np.array(canvas.owner.shape) - coverage.shape
    paste(canvas, coverage, (int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))), rng)
    return _developed(canvas.image, rng)


def paste(
    canvas: Canvas, coverage: Floats, corner: tuple[int, int], rng: np.random.Generator, color: Floats | None = None
) -> None:
    """Draw a digit with its top left pixel at `corner` (may lie outside), in a colour that stands out there."""
    where, patch = _overlap(canvas.owner.shape, coverage.shape, corner)
    region, alpha = canvas.image[where], coverage[patch]
    ink = _pick_color(region, canvas.owner[where], rng) if color is None else color
    opacity = alpha[..., None] * np.float32(rng.uniform(0.88, 1.0))
    canvas.image[where] = region * (1 - opacity) + ink * opacity
    canvas.inked.append(int((coverage > 0.5).sum()))
    canvas.owner[where][alpha > 0.5] = len(canvas.inked)


def _find_place(
    canvas: Canvas, coverage: Floats, crowds: list[Mask], rng: np.random.Generator
) -> tuple[int, int] | None:
    """A corner where the digit fits: mostly free standing, at times overlapping others or cut by the border."""
    overlapping, cut = rng.random() < 0.25, rng.random() < 0.08
    margin = 0.25 if cut else 0.0
    low = [int(-margin * side) for side in coverage.shape]
    high = [int(have - (1 - margin) * need) for have, need in zip(canvas.owner.shape, coverage.shape, strict=True)]
    if any(last < first for first, last in zip(low, high, strict=True)):
        return None
    for _ in range(25):
        corner = (int(rng.integers(low[0], high[0] + 1)), int(rng.integers(low[1], high[1] + 1)))
        where, patch = _overlap(canvas.owner.shape, coverage.shape, corner)
        if any(crowd[where].any() for crowd in crowds):
            continue
        free = not canvas.owner[where].any()
        if free or (overlapping and _all_stay_readable(canvas, where, coverage[patch] > 0.5)):
            ink = coverage > 0.5
            if ink[patch].sum() >= 0.75 * ink.sum():
                return corner
    return None


def _all_stay_readable(canvas: Canvas, where: tuple[slice, slice], ink: Mask) -> bool:
    """Whether every digit below keeps three quarters of its ink when `ink` covers the place `where`."""
    below, hidden = np.unique(canvas.owner[where][ink], return_counts=True)
    if not below.any():
        return True
    seen = np.bincount(canvas.owner.ravel(), minlength=len(canvas.inked) + 1)
    return all(
        seen[number] - count >= 0.75 * canvas.inked[number - 1]
        for number, count in zip(below, hidden, strict=True)
        if number
    )


def _draw_crowd(canvas: Canvas, scans: Scans, rng: np.random.Generator) -> SceneObject:
    """Rows of small touching digits of one class, annotated as one region."""
    label = int(rng.integers(10))
    step = min(canvas.owner.shape) / 160 * rng.uniform(9, 13)
    rows, columns = rng.integers(2, 4), rng.integers(3, 6)
    top = rng.uniform(0, canvas.owner.shape[0] - (rows + 1) * step)
    left = rng.uniform(0, canvas.owner.shape[1] - (columns + 1) * step)
    where = (slice(int(top), int(top + rows * step)), slice(int(left), int(left + columns * step)))
    color = _pick_color(canvas.image[where], canvas.owner[where], rng)
    first = len(canvas.inked) + 1
    for row, column in np.ndindex(int(rows), int(columns)):
        pick = rng.choice(np.flatnonzero(scans.labels == label))
        coverage = render_digit(scans.images[pick], step * 1.1, rng)
        shift = rng.uniform(-0.1, 0.1, 2) * step
        corner = (int(top + row * step + shift[0]), int(left + column * step * 0.9 + shift[1]))
        paste(canvas, coverage, corner, rng, color)
    mask = (canvas.owner >= first).astype(np.uint8)
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return SceneObject(label, closed.astype(bool), crowd=True)


def _draw_fragment(canvas: Canvas, scans: Scans, rng: np.random.Generator) -> None:
    """A digit of which the border of the picture cuts off about half."""
    size = canvas.owner.shape[0]
    coverage = render_digit(scans.images[rng.integers(len(scans.labels))], size * rng.uniform(0.4, 0.9), rng)
    along, across = rng.uniform(0, size), rng.uniform(-0.15, 0.05) * size
    y, x = [(across, along), (size - across, along), (along, across), (along, size - across)][rng.integers(4)]
    paste(canvas, coverage, (int(y - coverage.shape[0] / 2), int(x - coverage.shape[1] / 2)), rng)


def _pick_color(region: Floats, owner: NDArray[np.int32], rng: np.random.Generator) -> Floats:
    """A random RGB colour that stands out by luma from the background and from each digit in `region` (h, w, 3)."""
    luma = region @ _LUMA
    candidates = rng.uniform(0, 255, (24, 3)).astype(np.float32)
    contrast = np.full(24, np.inf)
    for number in np.unique(owner):
        there = luma[owner == number]
        contrast = np.minimum(contrast, np.abs(candidates @ _LUMA - there.mean()) - there.std())
    good = np.flatnonzero(contrast > rng.uniform(55, 110))
    chosen: Floats = candidates[good[0] if len(good) else contrast.argmax()]
    return chosen


def _developed(image: Floats, rng: np.random.Generator) -> Pixels:
    """The finished picture: a little sensor noise, eight bits."""
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 5))
    return np.asarray(np.clip(np.rint(image + noise), 0, 255), dtype=np.uint8)


def _without_specks(mask: Mask) -> Mask:
    """The mask (H, W) without the pieces under 4 pixels that an overlapping digit left: they would stretch the box."""
    _, pieces, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = statistics[:, cv2.CC_STAT_AREA] >= 4
    kept[0] = False
    return np.asarray(kept[pieces], dtype=np.bool_)


def _trimmed(coverage: Floats) -> Floats:
    """The patch without the rows and columns that hold no ink."""
    rows, columns = (np.flatnonzero((coverage > 0.02).any(axis=axis)) for axis in (1, 0))
    return coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _overlap(
    canvas_hw: tuple[int, ...], patch_hw: tuple[int, ...], corner: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the canvas that a patch at `corner` covers, and the part of the patch that lies on the canvas."""
    rows, columns = (
        (max(0, at), max(0, at, min(have, at + need)))
        for have, need, at in zip(canvas_hw, patch_hw, corner, strict=True)
    )
    where = (slice(*rows), slice(*columns))
    patch = (
        slice(rows[0] - corner[0], rows[1] - corner[0]),
        slice(columns[0] - corner[1], columns[1] - corner[1]),
    )
    return where, patch
