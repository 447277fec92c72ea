"""Videos: frames written and read again, odd sizes, damaged files, a full disk."""

from pathlib import Path

import numpy as np
import pytest

from detres.data.image_sources import SourceError
from detres.data.video import open_video, video_writer

cv2 = pytest.importorskip("cv2")


def test_frames_written_come_back(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with video_writer(path, 10.0) as write:
        for i in range(3):
            frame = np.zeros((48, 64, 3), np.uint8)
            frame[:, :, 2] = 100 + 50 * i
            write(frame)
    with open_video(path) as (info, frames):
        frames = list(frames)
    assert (info.fps, info.num_frames, len(frames)) == (10.0, 3, 3)
    assert frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
    for i, frame in enumerate(frames):
        assert abs(float(frame[:, :, 2].mean()) - (100 + 50 * i)) < 12 and frame[:, :, 0].mean() < 30


def test_damaged_video(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"not a film")
    with pytest.raises(SourceError, match=r"film\.mp4: no frame could be read"), open_video(path):
        pass


def test_odd_sizes_are_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with video_writer(path, 10.0) as write:
        write(np.full((47, 63, 3), 200, np.uint8))
    with open_video(path) as (_, frames):
        frame = next(frames)
    assert frame.shape == (48, 64, 3) and frame.min() > 180


def test_a_video_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "no such folder" / "film.mp4"
    with pytest.raises(OSError, match=r"film\.mp4"), video_writer(path, 10.0) as write:
        write(np.zeros((48, 64, 3), np.uint8))
