"""predict_to_folder: pictures, videos and JSON, and what stays behind when something fails."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detres.api import Detector
from detres.data.image_io import ImageError
from detres.data.image_sources import SourceError
from detres.jobs.predict import predict_to_folder
from detres.structures import Detections, ImageBatch

cv2 = pytest.importorskip("cv2")


class WholeImage(nn.Module):
    """One sure box around the whole image, one doubtful in its corner."""

    def predict(self, images: ImageBatch) -> list[Detections]:
        return [self._find(height, width) for height, width in images.sizes_hw.tolist()]

    def _find(self, height: int, width: int) -> Detections:
        boxes = torch.tensor([[0, 0, width, height], [0, 0, 5, 5]], dtype=torch.float32)
        return Detections(boxes, torch.tensor([0.9, 0.2]), torch.tensor([1, 0]))


def _keep(image: np.ndarray, *rest: Any) -> tuple[Any, ...]:
    return (image, *rest[:3], 0)


@pytest.fixture
def detector() -> Detector:
    return Detector(WholeImage(), ("naïve", "dog"), _keep, device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name, size in (("a.jpg", (40, 30)), ("b.png", (25, 35)), ("sub/c.jpg", (50, 20))):
        Image.new("RGB", size, (90, 90, 90)).save(folder / name)
    return folder


def _film(path: Path, num_frames: int = 5) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for _ in range(num_frames):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_no_images(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images given"):
        predict_to_folder(detector, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_pictures_and_json(detector: Detector, images: Path, tmp_path: Path, batch_size: int) -> None:
    output, steps = tmp_path / "new" / "out", []
    summary = predict_to_folder(
        detector, [images], output, batch_size=batch_size, progress=lambda *step: steps.append(step)
    )
    assert _files(output) == [
        "a_detections.jpg",
        "b_detections.png",
        "detections.json",
        "sub/c_detections.jpg",
    ]
    assert sorted(path.name for path in output.iterdir()) == ["a_detections.jpg", *_files(output)[1:3], "sub"]
    content = json.loads(summary.json.read_text(encoding="utf-8"))
    assert content["class_names"] == ["naïve", "dog"] and content["skipped"] == []
    assert [Path(entry["file"]).name for entry in content["images"]] == ["a.jpg", "b.png", "c.jpg"]
    first = content["images"][0]
    assert (first["height"], first["width"], first["picture"]) == (30, 40, "a_detections.jpg")
    assert [(d["name"], d["label"], d["box_xyxy"]) for d in first["detections"]] == [("dog", 1, [0, 0, 40, 30])]
    assert first["detections"][0]["score"] == pytest.approx(0.9)
    assert (summary.num_images, summary.num_found, summary.skipped) == (3, 3, [])
    assert summary.pictures == [output / name for name in _files(output) if name != "detections.json"]
    assert [step[:2] for step in steps] == [(1, 3), (2, 3), (3, 3)]
    drawn = np.asarray(Image.open(output / "b_detections.png"))
    assert drawn.shape == (35, 25, 3) and drawn.std() > 0


def test_score_threshold_counts_for_the_json(detector: Detector, images: Path, tmp_path: Path) -> None:
    summary = predict_to_folder(detector, [images / "a.jpg"], tmp_path / "out", score_threshold=0.1)
    names = [d["name"] for d in json.loads(summary.json.read_text(encoding="utf-8"))["images"][0]["detections"]]
    assert names == ["dog", "naïve"]
    none = predict_to_folder(detector, [images / "a.jpg"], tmp_path / "out", score_threshold=0.95)
    assert json.loads(none.json.read_text(encoding="utf-8"))["images"][0]["detections"] == []


def test_video(detector: Detector, tmp_path: Path) -> None:
    _film(tmp_path / "film.mp4")
    summary = predict_to_folder(detector, [tmp_path / "film.mp4"], tmp_path / "out", batch_size=2)
    assert _files(tmp_path / "out") == ["detections.json", "film_detections.mp4"]
    capture = cv2.VideoCapture(str(summary.pictures[0]))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and capture.get(cv2.CAP_PROP_FPS) == 10
    assert capture.read()[1].shape == (48, 64, 3)
    entries = json.loads(summary.json.read_text(encoding="utf-8"))["images"]
    assert [(e["frame"], e["time"]) for e in entries] == [(i, i / 10) for i in range(5)]
    assert summary.num_found == 5


@pytest.mark.parametrize("bad", ["bad.jpg", "bad.mp4"])
def test_a_bad_file_is_an_error_that_leaves_nothing(detector: Detector, images: Path, tmp_path: Path, bad: str) -> None:
    (images / bad).write_bytes(b"no picture")
    with pytest.raises((ImageError, SourceError), match=f"{bad}.*--skip-bad"):
        predict_to_folder(detector, [images], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bad_file_is_skipped_and_reported_by_option(detector: Detector, images: Path, tmp_path: Path) -> None:
    whole = (images / "a.jpg").read_bytes()
    (images / "bad.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "bad.mp4").write_bytes(b"no film")
    summary = predict_to_folder(detector, [images], tmp_path / "out", on_bad_image="skip")
    assert summary.num_images == 3
    assert [Path(file).name for file, _ in summary.skipped] == ["bad.jpg", "bad.mp4"]
    listed = json.loads(summary.json.read_text(encoding="utf-8"))["skipped"]
    assert [(row["file"], row["reason"]) for row in listed] == summary.skipped
    assert len(_files(tmp_path / "out")) == 4
    with pytest.raises(ValueError, match="on_bad_image must be"):
        predict_to_folder(detector, [images], tmp_path / "out", on_bad_image="ignore")


def test_earlier_results_stay_whole_when_a_later_call_fails(detector: Detector, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    predict_to_folder(detector, [images / "a.jpg"], output)
    before = {name: (output / name).read_bytes() for name in _files(output)}
    (images / "z.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"z\.jpg"):
        predict_to_folder(detector, [images], output, score_threshold=0.0)
    assert {name: (output / name).read_bytes() for name in _files(output)} == before


def test_own_results_are_not_taken_for_images(detector: Detector, images: Path) -> None:
    for _ in range(2):
        summary = predict_to_folder(detector, [images], images / "out")
        assert summary.num_images == 3


def test_unwritable_output_folder(detector: Detector, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write the results: .*file"):
        predict_to_folder(detector, [images], tmp_path / "file" / "out")


def test_disk_full(detector: Detector, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(OSError, match=r"No space left on device; choose another folder.*out"):
        predict_to_folder(detector, [images], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_interruption_leaves_nothing(detector: Detector, images: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None, name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(detector, [images], tmp_path / "out", progress=interrupt)
    assert not (tmp_path / "out").exists()
