"""The embedded data set: scenes of handwritten digits on photographs, written as a COCO data set.

Everything comes out of scikit-learn (scans and photographs), so that nothing has to be downloaded; the files are
ordinary ones, and the ordinary readers read them (see DIGITS_LAYOUT). COCO's hard cases occur: scenes without objects,
crowds with run-length masks, tiny, overlapping and cut objects, unequal image sizes, gaps in the ids.

The test split uses scans and parts of the photographs that neither training nor the classification crops ever show;
the crops of `classify/val` use scans that `train` does not.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detres.data.digit_scenes import Mask, Pixels, SceneObject, draw_crop, draw_scene, load_source

DIGITS_LAYOUT = """
digits/
  digits.json                            how it was made (seed, counts, sizes) and what is in it
  train/*.jpg  test/*.jpg                the scenes
  annotations/instances_{train,test}.json  COCO instances: box, polygon or run-length mask, area, iscrowd
  classify/{train,val}/{0..9}/*.png      one digit each, for pretraining a classifier
"""
CATEGORY_IDS = (1, 2, 3, 4, 6, 7, 8, 10, 11, 13)  # of the digits 0 ... 9: with gaps, as COCO's

_FORMAT = 1  # raise it when the same settings give other pictures
_MARK = "digits.json"
_PHOTO_CREDIT = "Photographs by danielbuechele (china) and vultilion (flower), flickr.com, CC BY 2.0, via scikit-learn"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DigitsSettings:
    """What determines the files: equal settings give equal bytes (with equal versions of the libraries)."""

    seed: int
    num_train: int
    num_test: int
    num_crops: int
    image_size: int
    crop_size: int
    format: int = _FORMAT


@dataclass(frozen=True)
class DigitsSummary:
    """What lies in `folder`; `written` is false when it was there already. Counts are by split."""

    folder: Path
    written: bool
    num_images: dict[str, int]
    num_objects: dict[str, int]
    num_crowds: dict[str, int]
    num_empty: dict[str, int]
    num_crops: dict[str, int]

    def text(self) -> str:
        """The counts in words, one line per split."""
        lines = [f"digits: {'written to' if self.written else 'already in'} {self.folder}"]
        for split, count in self.num_images.items():
            lines.append(
                f"  {split}: {count} scenes with {self.num_objects[split]} digits and {self.num_crowds[split]} crowds, "
                f"{self.num_empty[split]} of them empty"
            )
        return "\n".join([*lines, *(f"  classify/{split}: {count} crops" for split, count in self.num_crops.items())])


def write_digits(
    root: Path | str,
    *,
    seed: int = 0,
    num_train: int = 1200,
    num_test: int = 200,
    num_crops: int = 8000,
    image_size: int = 160,
    crop_size: int = 32,
    progress: Progress | None = None,
) -> DigitsSummary:
    """Write the data set to `root`/digits, all of it or nothing; return at once when it is there already.

    `num_crops` is the number of classification crops for training; a tenth as many come on top for validation.
    `image_size` is the longer side of a scene in pixels; `progress(done, total)` is called after every picture.
    Raises FileExistsError when the folder holds something else, ValueError for impossible settings.
    """
    settings = DigitsSettings(seed, num_train, num_test, num_crops, image_size, crop_size)
    _check(settings)
    folder = Path(root) / "digits"
    if (found := _existing(folder, settings)) is not None:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".digits-", dir=folder.parent))
    try:
        summary = _write_all(scratch, settings, progress)
        scratch.chmod(0o755)
        try:
            os.rename(scratch, folder)
        except OSError:  # somebody else finished first: theirs serves if it is the same
            if (found := _existing(folder, settings)) is None:
                raise
            return found
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _summary(folder, True, summary)


def _check(settings: DigitsSettings) -> None:
    for name, least in (("num_train", 0), ("num_test", 0), ("num_crops", 0), ("image_size", 80), ("crop_size", 24)):
        if (value := getattr(settings, name)) < least:
            raise ValueError(f"write_digits: {name} must be at least {least}, got {value}")
    if 0 < settings.num_crops < 10:
        raise ValueError(f"write_digits: num_crops must be 0, or 10 and more (ten classes), got {settings.num_crops}")
    if settings.seed < 0:
        raise ValueError(f"write_digits: seed must not be negative, got {settings.seed}")


def _existing(folder: Path, settings: DigitsSettings) -> DigitsSummary | None:
    """The summary of a data set that is there, None when there is nothing; an error when it is a different one."""
    if not folder.exists():
        return None
    remedy = "move or delete that folder, or choose another root"
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        made_with, summary = mark["settings"], mark["summary"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        raise FileExistsError(
            f"{folder} exists, but digits.py did not write it (no valid {_MARK}): {remedy}"
        ) from error
    wanted = asdict(settings)
    if different := [key for key in wanted if made_with.get(key) != wanted[key]]:
        details = ", ".join(f"{key} {made_with.get(key)} instead of {wanted[key]}" for key in different)
        raise FileExistsError(f"{folder} holds digits made with other settings ({details}): {remedy}")
    return _summary(folder, False, summary)


def _summary(folder: Path, written: bool, counts: dict[str, Any]) -> DigitsSummary:
    return DigitsSummary(folder=folder, written=written, **counts)


def _write_all(folder: Path, settings: DigitsSettings, progress: Progress | None) -> dict[str, dict[str, int]]:
    """Write everything below `folder`; the mark comes last. Returns the counts of the summary."""
    numbers = {"train": settings.num_train, "test": settings.num_test}
    crops = {"train": settings.num_crops, "val": -(-settings.num_crops // 100) * 10}
    total, done = sum(numbers.values()) + sum(crops.values()), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    counts: dict[str, dict[str, int]] = {"num_images": numbers, "num_crops": crops}
    (folder / "annotations").mkdir()
    for split, number in numbers.items():
        coco = _write_scenes(folder, split, number, settings, tick)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
        for key, count in _count(coco).items():
            counts.setdefault(key, {})[split] = count
    for split, number in crops.items():
        _write_crops(folder / "classify" / split, split, number, settings, tick)
    mark = {"settings": asdict(settings), "summary": counts, "credit": _PHOTO_CREDIT}
    (folder / _MARK).write_text(json.dumps(mark, indent=1))
    return counts


def _write_scenes(
    folder: Path, split: str, number: int, settings: DigitsSettings, tick: Callable[[], None]
) -> dict[str, Any]:
    """Write the scenes of one split and return its COCO instances."""
    source, (stream, first_id) = load_source(split), {"train": (0, 100_003), "test": (1, 500_009)}[split]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / split).mkdir()
    for index in range(number):
        rng = np.random.default_rng([settings.seed, stream, index])
        picture, objects = draw_scene(source, _scene_size(settings.image_size, rng), rng)
        image_id = first_id + 7 * index
        name = f"{image_id:012d}.jpg"
        _write_image(folder / split / name, picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        height, width = picture.shape[:2]
        images.append({"id": image_id, "file_name": name, "height": height, "width": width, "license": 1})
        for thing in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_annotation(thing)})
        tick()
    return {
        "info": {"description": f"detres digits, {split}", "version": str(_FORMAT), "contributor": _PHOTO_CREDIT},
        "licenses": [{"id": 1, "name": "CC BY 2.0", "url": "https://creativecommons.org/licenses/by/2.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": CATEGORY_IDS[digit], "name": str(digit), "supercategory": "digit"} for digit in range(10)
        ],
    }


def _write_crops(folder: Path, split: str, number: int, settings: DigitsSettings, tick: Callable[[], None]) -> None:
    """Write the classification crops of one split, the classes in turn."""
    source, stream = load_source(split), {"train": 2, "val": 3}[split]
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for index in range(number):
        picture = draw_crop(
            source, index % 10, settings.crop_size, np.random.default_rng([settings.seed, stream, index])
        )
        _write_image(folder / str(index % 10) / f"{index:06d}.png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        tick()


def _scene_size(longer: int, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a scene: three in four are square, the others 5:4 or 4:5."""
    height, width = [(5, 5), (5, 5), (5, 5), (5, 5), (5, 5), (5, 5), (5, 4), (4, 5)][rng.integers(8)]
    return longer * height // 5, longer * width // 5


def _annotation(thing: SceneObject) -> dict[str, Any]:
    """The COCO entry of an object without its ids: polygons round the ink, or a run-length mask for a crowd."""
    rows, columns = (np.flatnonzero(thing.mask.any(axis=axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    bbox = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    outline: Any
    if thing.crowd:
        outline, area = {"size": list(thing.mask.shape), "counts": run_lengths(thing.mask)}, float(thing.mask.sum())
    else:
        outline, area = outline_polygons(thing.mask)
    return {
        "category_id": CATEGORY_IDS[thing.label],
        "bbox": [float(value) for value in bbox],
        "area": area,
        "iscrowd": int(thing.crowd),
        "segmentation": outline,
    }


def outline_polygons(mask: Mask) -> tuple[list[list[float]], float]:
    """COCO polygons [x1, y1, x2, y2, ...] round a mask (H, W), holes filled as annotators do, and their area."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    # At twice the size the contour runs a quarter pixel inside the true outline instead of half a pixel.
    double = window.repeat(2, axis=0).repeat(2, axis=1)
    found, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corner = np.array([columns[0], rows[0]]) + 0.25
    polygons = [(cv2.approxPolyDP(contour, 1.0, True).reshape(-1, 2) / 2 + corner).ravel() for contour in found]
    filled = cv2.drawContours(np.zeros_like(double), found, -1, 1.0, cv2.FILLED)
    return [polygon.tolist() for polygon in polygons if polygon.size >= 6], float(filled.sum() / 4)


def run_lengths(mask: Mask) -> list[int]:
    """The uncompressed COCO run lengths of a mask (H, W): zeros first, column by column."""
    flat = mask.T.reshape(-1)
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    counts: list[int] = np.diff(edges).tolist()
    return [0, *counts] if flat[0] else counts


def _count(coco: dict[str, Any]) -> dict[str, int]:
    annotations: Iterable[dict[str, Any]] = coco["annotations"]
    crowds = sum(entry["iscrowd"] for entry in annotations)
    with_objects = {entry["image_id"] for entry in annotations}
    return {
        "num_objects": len(coco["annotations"]) - crowds,
        "num_crowds": crowds,
        "num_empty": len(coco["images"]) - len(with_objects),
    }


def _write_image(path: Path, picture: Pixels, options: list[int]) -> None:
    """Write RGB pixels (H, W, 3); raises OSError when the file cannot be written."""
    encoded = cv2.imencode(path.suffix, picture[..., ::-1], options)[1]
    path.write_bytes(encoded.tobytes())
