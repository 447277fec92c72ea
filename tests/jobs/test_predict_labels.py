"""predict_to_folder and `detres predict` with a classifier: pictures, tables, videos, and what is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detres import wiring
from detres.api import ImageClassifier
from detres.data.image_io import ImageError
from detres.data.image_sources import SourceError
from detres.jobs.predict import predict_to_folder
from detres.structures import ImageBatch
from tests.jobs.conftest import Outcome, Workshop

NAMES = ("red", "green", "blue", "naïve, or not", "e", "f", "g")
Detres = Callable[..., Outcome]


class MeanColor(nn.Module):
    """Classes 0 to 2 score the mean of their channel in tenths; the others less and less below nothing."""

    def predict(self, images: ImageBatch) -> torch.Tensor:
        rest = -torch.arange(1.0, 5.0)
        return torch.stack([torch.cat([pixels[:, 0, 0] / 10, rest]) for pixels in images.pixels])


def _keep(image: np.ndarray, *rest: Any) -> tuple[Any, ...]:
    return (image, *rest[:3], 0)


@pytest.fixture
def classifier() -> ImageClassifier:
    return ImageClassifier(MeanColor(), NAMES, _keep, device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name, color in (("a.png", (30, 20, 10)), ("b.png", (0, 90, 0)), ("sub/c.bmp", (0, 0, 0))):
        Image.new("RGB", (40, 30), color).save(folder / name)
    return folder


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _rows(file: Path) -> list[list[str]]:
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_no_images(classifier: ImageClassifier, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images given"):
        predict_to_folder(classifier, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_pictures_json_and_csv(classifier: ImageClassifier, images: Path, tmp_path: Path, batch_size: int) -> None:
    output = tmp_path / "out"
    summary = predict_to_folder(classifier, [images], output, batch_size=batch_size)
    pictures = ["a_label.png", "b_label.png", "sub/c_label.png"]
    assert _files(output) == [*pictures[:2], "predictions.csv", "predictions.json", pictures[2]]
    assert summary.headline == "3 images labelled" and (summary.num_images, summary.num_found) == (3, 3)
    assert summary.pictures == [output / name for name in pictures]
    assert summary.tables == [output / "predictions.csv"]
    content = json.loads(summary.json.read_text(encoding="utf-8"))
    assert content["class_names"] == list(NAMES) and content["skipped"] == []
    first = content["images"][0]
    assert {key: first[key] for key in ("file", "height", "width", "picture")} == {
        "file": str(images / "a.png"),
        "height": 30,
        "width": 40,
        "picture": "a_label.png",
    }
    odds = np.exp([3.0, 2, 1, -1, -2, -3, -4])
    expected = [(NAMES[i], i, pytest.approx(odds[i] / odds.sum(), rel=1e-5)) for i in range(5)]
    assert [(row["name"], row["label"], row["score"]) for row in first["predictions"]] == expected
    rows = _rows(summary.tables[0])
    assert rows[0][:7] == ["file", "frame", "time", "name_1", "score_1", "name_2", "score_2"]
    assert len(rows) == 4 and {len(row) for row in rows} == {13}
    for row, entry in zip(rows[1:], content["images"], strict=True):
        listed = [cell for one in entry["predictions"] for cell in (one["name"], str(one["score"]))]
        assert row == [entry["file"], "", "", *listed]
    assert [row[3] for row in rows[1:]] == ["red", "green", "red"]


def test_a_threshold_leaves_doubtful_labels_out(classifier: ImageClassifier, images: Path, tmp_path: Path) -> None:
    summary = predict_to_folder(classifier, [images], tmp_path / "out", score_threshold=0.5)
    assert summary.headline == "2 of 3 images labelled"
    entries = json.loads(summary.json.read_text(encoding="utf-8"))["images"]
    assert [[row["name"] for row in entry["predictions"]] for entry in entries] == [["red"], ["green"], []]
    assert _rows(summary.tables[0])[3] == [str(images / "sub" / "c.bmp"), *[""] * 12]
    with pytest.raises(ValueError, match=r"score_threshold must lie in 0\.\.1, got 1\.5"):
        predict_to_folder(classifier, [images], tmp_path / "none", score_threshold=1.5)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict_to_folder(classifier, [images], tmp_path / "none", batch_size=0)
    assert not (tmp_path / "none").exists()


def test_video(classifier: ImageClassifier, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for color in ((0, 0, 255), (0, 0, 255), (0, 255, 0)):  # BGR
        writer.write(np.full((48, 64, 3), color, np.uint8))
    writer.release()
    summary = predict_to_folder(classifier, [tmp_path / "film.mp4"], tmp_path / "out", batch_size=2)
    assert _files(tmp_path / "out") == ["film_label.mp4", "predictions.csv", "predictions.json"]
    assert cv2.VideoCapture(str(summary.pictures[0])).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert [row[1:4] for row in _rows(summary.tables[0])[1:]] == [
        ["0", "0.0", "red"],
        ["1", "0.1", "red"],
        ["2", "0.2", "green"],
    ]


def test_a_bad_file_is_an_error_or_skipped_by_option(classifier: ImageClassifier, images: Path, tmp_path: Path) -> None:
    (images / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.jpg.*--skip-bad"):
        predict_to_folder(classifier, [images], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = predict_to_folder(classifier, [images], tmp_path / "out", on_bad_image="skip")
    assert summary.num_images == 3 and [Path(file).name for file, _ in summary.skipped] == ["bad.jpg"]
    assert len(_rows(summary.tables[0])) == 4


def test_own_results_are_not_taken_for_images(classifier: ImageClassifier, images: Path) -> None:
    for _ in range(2):
        assert predict_to_folder(classifier, [images], images / "out").num_images == 3


def test_file_names_that_are_no_utf8(classifier: ImageClassifier, images: Path, tmp_path: Path) -> None:
    odd = images / "odd\udcff.png"
    try:
        (images / "a.png").rename(odd)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 only")
    summary = predict_to_folder(classifier, [images], tmp_path / "out")
    assert str(odd) in [entry["file"] for entry in json.loads(summary.json.read_text(encoding="utf-8"))["images"]]
    assert len(_rows(summary.tables[0])) == 4


def test_the_command_labels_images_as_the_network_does(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    weights, images = workshop.runs / "pretrain" / "best.pt", workshop.data / "digits" / "classify" / "val"
    outcome = detres("predict", "--weights", weights, images, "--output", tmp_path / "out", "--batch-size", 4)
    assert outcome.code == 0, outcome.err
    files = sorted(images.rglob("*.*"))
    assert f"{len(files)} images labelled" in outcome.out and "predictions.csv" in outcome.out
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert [entry["file"] for entry in entries] == [str(file) for file in files]
    model, _, names = wiring.model_from_checkpoint(weights)
    for file, entry in zip(files, entries, strict=True):
        pixels = torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).copy()).permute(2, 0, 1)
        scores = model.predict(ImageBatch.from_images([pixels])).softmax(dim=1)[0]
        best = scores.topk(5)
        assert [row["label"] for row in entry["predictions"]] == best.indices.tolist()
        assert [row["name"] for row in entry["predictions"]] == [names[i] for i in best.indices.tolist()]
        torch.testing.assert_close(torch.tensor([row["score"] for row in entry["predictions"]]), best.values)


def test_the_command_refuses_a_truncated_checkpoint(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes((workshop.runs / "pretrain" / "best.pt").read_bytes()[:4000])
    outcome = detres("predict", "--weights", cut, workshop.data, "--output", tmp_path / "out")
    assert outcome.code == 1 and str(cut) in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "out").exists()
