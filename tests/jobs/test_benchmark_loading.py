"""`detres benchmark data` on few small files."""

import json
from pathlib import Path

import pytest
import torch

from detres.jobs.benchmark import DifferentWork, benchmark, format_results, loading, timing, write_results
from detres.jobs.benchmark.loading import Photos, annotate, check_same, our_config, our_stream
from detres.jobs.benchmark.pictures import photo_folder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETRES_DATASETS", raising=False)
    monkeypatch.setattr(loading, "SHORT", 96)
    monkeypatch.setattr(loading, "LONGEST", 120)
    monkeypatch.setattr(timing, "_SHORTEST_TURN", 0.0)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    folder, _ = photo_folder(tmp_path, 3)
    return annotate(folder, sorted(folder.rglob("*.jpg")), tmp_path / "boxes.json")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image file"):
        benchmark(("data",), data=str(tmp_path / "empty"))


def test_annotations_say_what_the_boxes_are(photos: Photos) -> None:
    written = json.loads(photos.annotations.read_text())
    assert len(photos.files) == 3 and [len(boxes) for boxes in photos.boxes] == [8, 8, 8]
    x, y, width, height = written["annotations"][9]["bbox"]
    torch.testing.assert_close(photos.boxes[1][1], torch.tensor([x, y, x + width, y + height]))
    assert {row["width"] for row in written["images"]} == {500}


def test_both_give_the_same_boxes_and_pixels(photos: Photos) -> None:
    same = check_same(photos)
    assert same["boxes"]["difference"] < 1.5 and same["grey levels"]["difference"] < 4


def test_other_boxes_are_refused(photos: Photos) -> None:
    photos.boxes[1][0] += 20
    with pytest.raises(DifferentWork, match="boxes: torchvision's and detres's differ by"):
        check_same(photos)


def test_other_pixels_are_refused(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_MEAN", (0.6, 0.456, 0.406))
    with pytest.raises(DifferentWork, match=r"pixels: torchvision's and detres's differ by \d"):
        check_same(photos)


def test_every_photo_once_an_epoch(photos: Photos) -> None:
    stream = our_stream(our_config(photos))
    assert sorted(next(stream).image_ids[0] for _ in range(3)) == [0, 1, 2]


def test_whole_benchmark(tmp_path: Path) -> None:
    folder, _ = photo_folder(tmp_path, 3)
    results = benchmark(("data",), data=str(folder), batch_size=2, repeats=1, progress=lambda _text: None)
    figures = results["works"]["data"]
    assert figures["batch_size"] == 2 and figures["input"] == str(folder)
    assert set(figures["parts"]["torchvision"]) == {"decoding", "transforms"}
    assert set(figures["parts"]["detres"]) == {"loading", "input"}
    assert "images/s" in format_results(results) and "grey levels to" in format_results(results)
    assert 0 < figures["calls_alone"]["median"] < figures["seconds"]["torchvision"]["median"]
    assert "decoding, resizing, normalising, which would be" in format_results(results)
    _, chart = write_results(results, tmp_path)
    assert chart.stat().st_size > 5_000
