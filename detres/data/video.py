"""Reading and writing videos frame by frame.

Shapes: H, W height and width.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detres.data.image_sources import SourceError

_CODEC = "mp4v"  # the one MPEG-4 codec that OpenCV's own builds can write
_FALLBACK_FPS = 25.0  # for videos that do not tell


@dataclass(frozen=True)
class VideoInfo:
    """What a video says about itself: frames per second, and how many frames (None: it does not tell)."""

    fps: float
    num_frames: int | None


@contextmanager
def open_video(path: Path) -> Iterator[tuple[VideoInfo, Iterator[np.ndarray]]]:
    """The properties of a video and its frames in order, (H, W, 3) uint8 RGB.

    Raises SourceError when the file cannot be opened or has not one frame.
    """
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        opened, first = capture.read() if capture.isOpened() else (False, None)
        if not opened or first is None:
            raise SourceError(f"{path}: no frame could be read; it is damaged or in a format that OpenCV cannot decode")
        fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        info = VideoInfo(
            fps if math.isfinite(fps) and fps > 0 else _FALLBACK_FPS,
            int(count) if math.isfinite(count) and count > 0 else None,
        )
        yield info, _frames(capture, first)
    finally:
        capture.release()


def _frames(capture: Any, first: np.ndarray) -> Iterator[np.ndarray]:
    frame = first
    while True:
        yield np.ascontiguousarray(frame[:, :, ::-1])  # OpenCV decodes to BGR
        more, frame = capture.read()
        if not more:
            return


@contextmanager
def video_writer(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends an (H, W, 3) uint8 RGB frame to an mp4 file; the first frame sets the size.

    Odd sizes grow by one pixel at the right or the bottom. Raises OSError when the video cannot be written.
    """
    import cv2

    writers: list[Any] = []

    def write(frame: np.ndarray) -> None:
        height, width = frame.shape[:2]
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # the codec cuts odd sizes
        if not writers:
            writers.append(cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*_CODEC), fps, even.shape[1::-1]))
            if not writers[0].isOpened():
                raise OSError(
                    f"{path.name}: OpenCV cannot write {_CODEC} video here; convert the video to images first"
                )
        writers[0].write(np.ascontiguousarray(even[:, :, ::-1]))

    try:
        yield write
    finally:
        for writer in writers:
            writer.release()
    if not cv2.VideoCapture(str(path)).isOpened():  # OpenCV does not tell when the disk is full
        raise OSError(f"the video {path.name} could not be finished")
