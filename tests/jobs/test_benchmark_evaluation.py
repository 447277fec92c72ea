"""`detres benchmark eval` on few images: what it reports, and that it compares nothing but the same numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detres.cli import main
from detres.jobs.benchmark import DifferentWork, benchmark, evaluation, evaluation_set, format_results, write_results
from detres.jobs.benchmark.conditions import Conditions
from detres.jobs.benchmark.evaluation_set import make_set

CONDITIONS = Conditions(device=torch.device("cpu"), repeats=1, progress=lambda _text: None)


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETRES_DATASETS", raising=False)


@pytest.fixture
def _few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_set, "NUM_CLASSES", 2)  # pycocotools takes its time over each


def test_a_set_of_no_images() -> None:
    assert make_set(0).counts() == {"images": 0, "objects": 0, "detections": 0}


def test_sets_are_always_the_same() -> None:
    made, again = make_set(20, 30), make_set(20, 30)
    assert made.counts()["detections"] == 600 and 50 < made.counts()["objects"] < 400
    assert made.source == "random boxes" and made.truth == again.truth
    assert all((a.boxes_xyxy == b.boxes_xyxy).all() for a, b in zip(made.detections, again.detections, strict=True))
    assert any(entry["iscrowd"] for entry in make_set(100).truth["annotations"])


def test_sets_of_real_boxes(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRES_DATASETS", str(real_data))
    objects = evaluation_set._objects_of_coco(5000)
    assert objects is not None and len(objects) == 5000 and sum(len(labels) for labels, _ in objects) == 36781
    assert set(np.unique(np.concatenate([labels for labels, _ in objects]))) == set(range(80))
    assert "val2017" in make_set(2).source


@pytest.mark.usefixtures("_few_classes")
def test_whole_benchmark(tmp_path: Path) -> None:
    said: list[str] = []
    results = benchmark(("eval",), batch_size=8, repeats=2, threads=1, progress=said.append)
    figures = results["works"]["eval"]
    assert len(said) == 3 and figures["images"] == 8 and figures["detections"] == 800
    assert figures["same"] == {"precisions and recalls": {"identical": 10 * 101 * 2 * 12 + 10 * 2 * 12}}
    for side in ("pycocotools", "detres"):
        assert len(figures["seconds"][side]["each"]) == 2
        assert list(figures["parts"][side]) == ["conversion", "evaluation"]
    text = format_results(results)
    assert "24480 precisions and recalls, bit for bit" in text and "(pycocotools / detres;" in text
    assert "COCO evaluation, 8 images" in text
    table, chart = write_results(results, tmp_path)
    assert json.loads(table.read_text()) == results and chart.stat().st_size > 5_000


@pytest.mark.usefixtures("_few_classes")
def test_different_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = evaluation.coco_precision_recall

    def wrong(*args: object, **options: object) -> tuple[np.ndarray, np.ndarray]:
        precision, recall = right(*args, **options)  # type: ignore[arg-type]
        return precision, np.nextafter(recall, 2)

    monkeypatch.setattr(evaluation, "coco_precision_recall", wrong)
    with pytest.raises(DifferentWork, match=r"recall: 240 of 240 values differ"):
        evaluation.compare_evaluations(3, CONDITIONS)
    monkeypatch.setattr(evaluation, "_ours", lambda judged: evaluation._Turn([0.5] * 12, {}))
    with pytest.raises(DifferentWork, match="COCO's numbers: pycocotools computes"):
        evaluation.compare_evaluations(3, CONDITIONS)


@pytest.mark.usefixtures("_few_classes")
def test_each_work_is_handed_over_when_it_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what fails, or is interrupted, later does not take it along."""

    def fails(*_: object) -> None:
        raise DifferentWork("another")

    got: list[dict[str, float]] = []
    monkeypatch.setattr("detres.jobs.benchmark.run.loading.compare_loading", fails)
    with pytest.raises(DifferentWork):
        benchmark(("eval", "data"), batch_size=4, repeats=1, progress=lambda _: None, finished=got.append)
    assert len(got) == 1 and list(got[0]["works"]) == ["eval"]
    assert "its median lies" not in format_results(got[0]), "of one repeat nothing can be said"


@pytest.mark.usefixtures("_few_classes")
def test_the_output_folder_is_tried_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["benchmark", "eval", "--output", str(tmp_path / "file")]) == 1
    said = capsys.readouterr()
    assert "is a file, expected a folder: choose another one by --output" in said.err and not said.out
