"""Detections for whole collections of images: labelled pictures, annotated videos and one JSON file.

`detections.json`:

    {"class_names": [...],
     "images": [{"file": ..., "frame": 0, "time": 0.0,            frame and time (seconds) for videos only
                 "height": 480, "width": 640, "picture": ...,      picture or video, relative to the folder
                 "detections": [{"box_xyxy": [...], "score": ..., "label": 3, "name": "dog"}, ...]}, ...],
     "skipped": [{"file": ..., "reason": ...}]}
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from detres.api import Detector
from detres.data.image_io import ImageError, read_image
from detres.data.image_sources import Source, SourceError, find_sources
from detres.data.video import open_video, video_writer
from detres.structures import Detections

JSON_NAME = "detections.json"
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")  # their pictures are written as PNG

Progress = Callable[[int, int | None, str], None]
"""Called with the files done, the number of all files, and the name (and frame) at hand."""


@dataclass
class PredictionSummary:
    """What `predict_to_folder` made.

    json            the JSON file
    pictures        the pictures and videos
    num_images      images and video frames looked at
    num_detections  objects found in them
    skipped         (file, reason) of images that could not be used
    """

    json: Path
    pictures: list[Path] = field(default_factory=list)
    num_images: int = 0
    num_detections: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


class _Picture(NamedTuple):
    """An image on its way through the detector."""

    source: Source
    pixels: np.ndarray


@dataclass
class _Job:
    """The settings of one call and the results so far; `folder` is where files are staged."""

    detector: Detector
    folder: Path
    score_threshold: float
    batch_size: int
    skip_bad: bool
    progress: Progress
    total: int
    done: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def finish_source(self, source: Source) -> None:
        """Count a file as done and say so."""
        self.done += 1
        self.progress(self.done, self.total, str(source.path))


def predict_to_folder(
    detector: Detector,
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    score_threshold: float = 0.5,
    batch_size: int = 1,
    on_bad_image: Literal["error", "skip"] = "error",
    progress: Progress | None = None,
) -> PredictionSummary:
    """Detect in images, folders, videos and globs; write `<name>_detections.jpg|png|mp4` and `detections.json`.

    Pictures and JSON hold the detections with at least `score_threshold`. Everything is put together in a hidden
    folder inside `output` and moved into place at the end: after an error or Ctrl-C, `output` is as it was before.
    `on_bad_image="skip"` leaves unusable files out and lists them in the JSON and the summary.

    Raises SourceError (nothing found, unknown kind of file), ImageError (unusable image), OSError (output folder).
    """
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"on_bad_image must be 'error' or 'skip', got {on_bad_image!r}")
    output = Path(output)
    found = [source for source in find_sources(sources) if not _is_own_result(source.path, output)]
    with _staging(output) as folder:
        job = _Job(
            detector=detector,
            folder=folder,
            score_threshold=score_threshold,
            batch_size=batch_size,
            skip_bad=on_bad_image == "skip",
            progress=progress or (lambda done, total, name: None),
            total=len(found),
        )
        _predict_images(job, [source for source in found if source.kind == "image"])
        for source in found:
            if source.kind == "video":
                _predict_video(job, source)
        _write_json(job)
    return PredictionSummary(
        json=output / JSON_NAME,
        pictures=[output / name for name in job.pictures],
        num_images=len(job.entries),
        num_detections=sum(len(entry["detections"]) for entry in job.entries),
        skipped=job.skipped,
    )


def _is_own_result(path: Path, output: Path) -> bool:
    """Whether an earlier call wrote this file; `output` may lie inside the folder that is searched."""
    return path.stem.endswith("_detections") and output.resolve() in path.resolve().parents


def _predict_images(job: _Job, sources: Sequence[Source]) -> None:
    pictures = _read(job, sources)
    while batch := list(islice(pictures, job.batch_size)):
        for picture, found in zip(batch, _detect(job, [picture.pixels for picture in batch]), strict=True):
            suffix = ".png" if picture.source.path.suffix.lower() in _LOSSLESS else ".jpg"
            name = f"{picture.source.name}_detections{suffix}"
            target = _place(job, name)
            found.draw(picture.pixels, score_threshold=0.0).save(target, quality=92)
            job.entries.append(_entry(picture.source, found, name))
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
    name = f"{source.name}_detections.mp4"
    target = _place(job, name)
    try:
        with open_video(source.path) as (info, frames), video_writer(target, info.fps) as write:
            number = 0
            while batch := list(islice(frames, job.batch_size)):
                for pixels, found in zip(batch, _detect(job, batch), strict=True):
                    write(np.asarray(found.draw(pixels, score_threshold=0.0)))
                    job.entries.append(_entry(source, found, name, number, number / info.fps))
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


def _detect(job: _Job, images: Sequence[np.ndarray]) -> list[Detections]:
    return job.detector.predict(
        list(images), score_threshold=job.score_threshold, batch_size=job.batch_size, keep_images=False
    )


def _entry(
    source: Source, found: Detections, picture: str, frame: int | None = None, time: float | None = None
) -> dict[str, Any]:
    """One image of the JSON file."""
    rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), found.names(), strict=True)
    return {
        "file": str(source.path),
        **({} if frame is None else {"frame": frame, "time": time}),
        "height": found.image_size_hw[0],
        "width": found.image_size_hw[1],
        "picture": picture,
        "detections": [
            {"box_xyxy": box, "score": score, "label": label, "name": name} for box, score, label, name in rows
        ],
    }


def _write_json(job: _Job) -> None:
    """The JSON file, with a line of its own for every image."""
    parts: dict[str, list[Any]] = {
        "class_names": list(job.detector.class_names),
        "images": job.entries,
        "skipped": [{"file": file, "reason": reason} for file, reason in job.skipped],
    }
    blocks = []
    for key, rows in parts.items():
        lines = ",\n  ".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        blocks.append(f'"{key}": [\n  {lines}\n ]' if rows else f'"{key}": []')
    (job.folder / JSON_NAME).write_text("{\n " + ",\n ".join(blocks) + "\n}\n", encoding="utf-8")


def _place(job: _Job, name: str) -> Path:
    """The staged path of a result, its folder made."""
    path = job.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A hidden folder inside `output`, whose files move into `output` when the block ends well, else vanish."""
    made = not output.exists()
    folder = None
    try:
        output.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".predict-", dir=output))
        yield folder
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = output / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
        made = False
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            error.errno, f"cannot write the results: {reason}; choose another folder or free some space", str(output)
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if made:
            with suppress(OSError):
                output.rmdir()
