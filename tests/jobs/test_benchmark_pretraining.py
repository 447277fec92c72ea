"""`detres benchmark pretrain` at a tiny size: both loops see the same images and weights, and take turns."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from detres.cli import main
from detres.data.annotations import DatasetError
from detres.jobs.benchmark import DifferentWork, benchmark
from detres.jobs.benchmark.conditions import Conditions
from detres.jobs.benchmark.pictures import photo_folder, training_folder
from detres.jobs.benchmark.pretraining import Pretraining, _Turns, pipelines

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETRES_DATASETS", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return training_folder(None, tmp_path, 6)[0]


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="one folder of images per class"):
        Pretraining(tmp_path, 64, 1, 0, CPU)


def test_whole_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--batch-size", "2", "--size", "64", "64", "--repeats", "1", "--threads", "1"]
    assert main(["benchmark", "pretrain", *sizes, "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert (tmp_path / "benchmark.png").stat().st_size > 5_000
    assert results["settings"]["model"] == "ResNet-18, random weights" and results["settings"]["threads"] == 1
    assert list(results["works"]) == ["pretrain", "pipeline", "pipeline of photos"]
    loss = results["works"]["pretrain"]["same"]["loss"]
    assert loss["detres"] == pytest.approx(loss["torchvision"], rel=1e-5)
    for figures in results["works"].values():
        theirs, ours = (figures["seconds"][side]["each"] for side in ("torchvision", "detres"))
        assert len(theirs) == len(ours) == 1
        assert figures["ratio"]["median"] == pytest.approx(theirs[0] / ours[0])
    for side, parts in results["works"]["pretrain"]["parts"].items():
        assert 0 < parts["loading"] < parts["learning"], side
        assert sum(parts.values()) == pytest.approx(results["works"]["pretrain"]["seconds"][side]["median"])
    assert results["works"]["pipeline of photos"]["size_hw"] == [224, 224]
    said = capsys.readouterr().out
    assert "1 loss to" in said and "images/s" in said and "learning" in said


def test_other_weights_are_refused(folder: Path) -> None:
    pretraining = Pretraining(folder, 64, 2, 0, CPU)
    with torch.no_grad():
        pretraining.ours.get_parameter("fc.weight").mul_(1.01)
    with pytest.raises(DifferentWork, match=r"loss: torchvision computes \d.* detres \d"):
        pretraining.check_same_work()


def test_other_images_are_refused(tmp_path: Path) -> None:
    folder, _ = training_folder(None, tmp_path, 4)
    Image.new("RGB", (64, 64)).save(folder / "class0" / "one.gif")  # torchvision passes these over
    with pytest.raises(DifferentWork, match="torchvision finds 4 images of 2 classes, detres 5 of 2"):
        Pretraining(folder, 64, 2, 0, CPU)


def test_a_batch_larger_than_the_data_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="6 images are less than a batch of 7"):
        Pretraining(folder, 64, 7, 0, CPU)


def test_crops_are_square() -> None:
    with pytest.raises(ValueError, match=r"size: got \(64, 96\), expected a square"):
        benchmark(["pretrain"], size_hw=(64, 96))


def test_both_pipelines_normalise_alike(tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    for name in ("a", "b"):
        (grey / name).mkdir(parents=True)
        Image.new("RGB", (80, 70), (200, 100, 50)).save(grey / name / "one.png")  # any crop of it is the same
    pretraining = Pretraining(grey, 64, 2, 0, CPU)
    ours = pretraining.ours.pixels(next(pretraining.our_loader.stream()).images)
    theirs, _ = next(iter(pretraining.their_loader))
    assert theirs.shape == (2, 3, 64, 64)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert list(pipelines(pretraining, Conditions(device=CPU))) == ["torchvision", "detres"]


def test_torchvisions_loop_runs_between_turns_of_ours() -> None:
    order: list[str] = []

    def theirs() -> Iterator[float]:
        while True:
            order.append("t")
            yield 0.25

    said: list[str] = []
    with _Turns(theirs(), 2, Conditions(device=CPU, repeats=2, progress=said.append)) as turns:
        for step in range(1, 7):
            order.append("d")
            turns.advance(step)
            turns.log(step, {"loading_share": 0.5, "seconds_per_step": 3.0})
    assert "".join(order) == "ddttddttddtt" and len(said) == 2
    figures = turns.figures()
    assert {name: len(spread["each"]) for name, spread in figures["seconds"].items()} == {"torchvision": 2, "detres": 2}
    assert figures["parts"]["torchvision"]["loading"] == 0.25
    assert figures["parts"]["detres"]["loading"] == 1.5


def test_photos_are_linked_where_there_are_enough(
    tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETRES_DATASETS", str(real_data))
    folder, source = photo_folder(tmp_path, 8)
    files = list((folder / "all").iterdir())
    assert source == f"{len(files)} photos of COCO" and len(files) > 8
    with Image.open(files[0]) as image:
        assert min(image.size) > 100
