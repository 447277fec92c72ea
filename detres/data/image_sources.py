"""Where prediction takes its images from: files, folders and glob patterns; images and videos."""

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


class SourceError(ValueError):
    """A source of images that cannot be used; the message names it, what was expected and the remedy."""


@dataclass(frozen=True)
class Source:
    """One image or video file.

    path  the file
    kind  image or video
    name  what results are called after: the file's stem, below the folder that was given; unique among the sources
    """

    path: Path
    kind: Literal["image", "video"]
    name: str


def find_sources(places: Sequence[str | Path]) -> list[Source]:
    """The images and videos at `places`: files, folders (with their subfolders) and glob patterns, sorted, each once.

    Raises SourceError for a place that does not exist, holds no image or video, or is a file of another kind.
    """
    found: dict[Path, Path] = {}  # resolved file -> its path below the place that brought it in
    kinds: dict[Path, Path] = {}
    for place in places:
        for path, below in _expand(str(place)):
            if path.resolve() not in found:
                found[path.resolve()] = below
                kinds[path.resolve()] = path
    if not found:
        raise SourceError("no images given: name image files, folders, videos or glob patterns")
    names = _unique_names(list(found.values()))
    return [
        Source(path, "video" if _is_video(path) else "image", name)
        for path, name in zip(kinds.values(), names, strict=True)
    ]


def _expand(place: str) -> list[tuple[Path, Path]]:
    """The files of one place, each with the part of its path that names its results."""
    path = Path(place).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _is_readable(file) and not _is_hidden(file, path))
        below = [(file, file.relative_to(path)) for file in files]
    elif path.exists():
        _require_known_kind(path)
        return [(path, Path(path.name))]
    elif glob.has_magic(place):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        below = [(file, Path(file.name)) for file in matches if _is_readable(file)]
    else:
        raise SourceError(f"{place}: does not exist; expected an image, a folder, a video or a glob pattern")
    if not below:
        raise SourceError(f"{place}: no image or video found there ({', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)})")
    return below


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and path.is_file()


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _require_known_kind(path: Path) -> None:
    if path.suffix.lower() not in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
        raise SourceError(
            f"{path}: {path.suffix or 'a file without suffix'} is neither an image ({', '.join(IMAGE_SUFFIXES)}) "
            f"nor a video ({', '.join(VIDEO_SUFFIXES)})"
        )


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Stems; where several files share one, suffixes (a_png, a_jpg), then numbers, tell them apart."""
    stems = [path.with_suffix("").as_posix() for path in paths]
    counts = Counter(stem.casefold() for stem in stems)  # some file systems do not tell A from a
    wanted = [
        stem if counts[stem.casefold()] == 1 else f"{stem}_{path.suffix[1:].lower()}"
        for stem, path in zip(stems, paths, strict=True)
    ]
    taken: set[str] = set()
    names = []
    for name in wanted:
        number, unique = 1, name
        while unique.casefold() in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique.casefold())
        names.append(unique)
    return names
