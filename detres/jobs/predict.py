"""Predictions for whole collections of images: labelled pictures, annotated videos and one JSON file.

A detector or localizer writes `detections.json`, a classifier `predictions.json` (and `predictions.csv`):

    {"class_names": [...],
     "images": [{"file": ..., "frame": 0, "time": 0.0,            frame and time (seconds) for videos only
                 "height": 480, "width": 640, "picture": ...,      picture or video, relative to the folder
                 "detections": [{"box_xyxy": [...], "score": ..., "label": 3, "name": "dog"}, ...],   boxes
                 "predictions": [{"name": "dog", "label": 3, "score": ...}, ...]}, ...],              classifiers
     "skipped": [{"file": ..., "reason": ...}]}
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from detres.api import AnyPredictor
from detres.data.image_io import ImageError, read_image
from detres.data.image_sources import Source, SourceError, find_sources
from detres.data.video import open_video, video_writer
from detres.jobs.findings import ClassLocator, Finder, Finding, LabelFinder, ObjectFinder, make_finder
from detres.jobs.staging import staging

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")  # their pictures are written as PNG

Progress = Callable[[int, int | None, str], None]
"""Called with the files done, the number of all files, and the name (and frame) at hand."""


@dataclass
class PredictionSummary:
    """What `predict_to_folder` made.

    json        the JSON file
    headline    one line for a person: how much was found in how many images
    tables      other files that list what was found
    pictures    the pictures and videos
    num_images  images and video frames looked at
    num_found   objects found in them by a detector; images that a classifier labelled, or a localizer
    skipped     (file, reason) of images that could not be used
    """

    json: Path
    headline: str
    tables: list[Path] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    num_images: int = 0
    num_found: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


class _Picture(NamedTuple):
    """An image on its way through the model."""

    source: Source
    pixels: np.ndarray


@dataclass
class _Job:
    """The settings of one call and the results so far; `folder` is where files are staged."""

    finder: Finder
    folder: Path
    batch_size: int
    skip_bad: bool
    progress: Progress
    total: int
    done: int = 0
    num_found: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def finish_source(self, source: Source) -> None:
        """Count a file as done and say so."""
        self.done += 1
        self.progress(self.done, self.total, str(source.path))

    def add(self, source: Source, found: Finding, name: str, pixels: np.ndarray, **moment: float) -> None:
        """Write down what was found in an image (`moment`: frame and time in a video), shown in the picture `name`."""
        height, width = pixels.shape[:2]
        about = {"file": str(source.path), **moment, "height": height, "width": width, "picture": name}
        self.entries.append({**about, **found.row})
        self.num_found += found.num_found


def predict_to_folder(
    predictor: AnyPredictor,
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    score_threshold: float | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 1,
    on_bad_image: Literal["error", "skip"] = "error",
    progress: Progress | None = None,
) -> PredictionSummary:
    """Detect in, locate in, or label, images, folders, videos and globs.

    A detector writes `<name>_detections.jpg|png|mp4` and `detections.json`; a localizer `<name>_located.jpg|png|mp4`
    and `detections.json`, with a box for each of its most likely classes or of `classes`; a classifier
    `<name>_label.jpg|png|mp4`, `predictions.json` and `predictions.csv` with the five most probable classes. They hold
    what has at least `score_threshold` (default: 0.5 for a detector, else 0). Everything is put together in a hidden
    folder inside `output` and moved into place at the end: after an error or Ctrl-C, `output` is as it was before.
    `on_bad_image="skip"` leaves unusable files out and lists them in the JSON and the summary.

    Raises SourceError (nothing found, unknown kind of file), ImageError (unusable image), OSError (output folder).
    """
    _check_options(on_bad_image, batch_size)
    finder, output = make_finder(predictor, score_threshold, classes), Path(output)
    found = [source for source in find_sources(sources) if not _is_own_result(source.path, output)]
    with staging(output) as folder:
        job = _Job(
            finder=finder,
            folder=folder,
            batch_size=batch_size,
            skip_bad=on_bad_image == "skip",
            progress=progress or (lambda done, total, name: None),
            total=len(found),
        )
        _predict_images(job, [source for source in found if source.kind == "image"])
        for source in (source for source in found if source.kind == "video"):
            _predict_video(job, source)
        _write_json(job, predictor.class_names)
        tables = finder.write_tables(folder, job.entries)
    return PredictionSummary(
        json=output / finder.json_name,
        headline=finder.describe(job.num_found, len(job.entries)),
        tables=[output / name for name in tables],
        pictures=[output / name for name in job.pictures],
        num_images=len(job.entries),
        num_found=job.num_found,
        skipped=job.skipped,
    )


def _check_options(on_bad_image: str, batch_size: int) -> None:
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"on_bad_image must be 'error' or 'skip', got {on_bad_image!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


def _is_own_result(path: Path, output: Path) -> bool:
    """Whether an earlier call wrote this file; `output` may lie inside the folder that is searched."""
    return (
        path.stem.endswith((ObjectFinder.suffix, ClassLocator.suffix, LabelFinder.suffix))
        and output.resolve() in path.resolve().parents
    )


def _predict_images(job: _Job, sources: Sequence[Source]) -> None:
    pictures = _read(job, sources)
    while batch := list(islice(pictures, job.batch_size)):
        for picture, found in zip(batch, job.finder.find([picture.pixels for picture in batch]), strict=True):
            suffix = ".png" if picture.source.path.suffix.lower() in _LOSSLESS else ".jpg"
            name = f"{picture.source.name}{job.finder.suffix}{suffix}"
            found.picture.save(_place(job, name), quality=92)
            job.add(picture.source, found, name, picture.pixels)
            job.pictures.append(name)
            job.finish_source(picture.source)


def _read(job: _Job, sources: Sequence[Source]) -> Iterator[_Picture]:
    for source in sources:
        try:
            pixels = read_image(source.path)
        except ImageError as error:
            _skip_or_raise(job, source, error)
            continue
        yield _Picture(source, pixels)


def _predict_video(job: _Job, source: Source) -> None:
    """Annotate a video frame by frame; an unreadable video is treated like an unreadable image."""
    name = f"{source.name}{job.finder.suffix}.mp4"
    target = _place(job, name)
    try:
        with open_video(source.path) as (info, frames), video_writer(target, info.fps) as write:
            number = 0
            while batch := list(islice(frames, job.batch_size)):
                for pixels, found in zip(batch, job.finder.find(batch), strict=True):
                    write(np.asarray(found.picture))
                    job.add(source, found, name, pixels, frame=number, time=number / info.fps)
                    number += 1
                of = f" of {info.num_frames}" if info.num_frames else ""
                job.progress(job.done, job.total, f"{source.path} (frame {number}{of})")
        if info.num_frames and number < 0.98 * info.num_frames:  # containers only estimate their number of frames
            job.skipped.append((str(source.path), f"announces {info.num_frames} frames, {number} could be read"))
    except SourceError as error:
        _skip_or_raise(job, source, error)
        return
    job.pictures.append(name)
    job.finish_source(source)


def _skip_or_raise(job: _Job, source: Source, error: ValueError) -> None:
    if not job.skip_bad:
        raise type(error)(f"{error}. To go on without such files: --skip-bad (on_bad_image='skip')") from error
    job.skipped.append((str(source.path), str(error)))
    job.finish_source(source)


def _write_json(job: _Job, class_names: Sequence[str]) -> None:
    """The JSON file, with a line of its own for every image."""
    parts: dict[str, list[Any]] = {
        "class_names": list(class_names),
        "images": job.entries,
        "skipped": [{"file": file, "reason": reason} for file, reason in job.skipped],
    }
    blocks = []
    for key, rows in parts.items():
        lines = ",\n  ".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        blocks.append(f'"{key}": [\n  {lines}\n ]' if rows else f'"{key}": []')
    text = "{\n " + ",\n ".join(blocks) + "\n}\n"
    # File names that are no UTF-8 hold lone surrogates, which JSON can only escape.
    (job.folder / job.finder.json_name).write_text(text, encoding="utf-8", errors="backslashreplace")


def _place(job: _Job, name: str) -> Path:
    """The staged path of a result, its folder made."""
    path = job.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
