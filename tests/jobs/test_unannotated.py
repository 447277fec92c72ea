"""Evaluation of images whose boxes only a server knows: files for it, and no numbers (VOC2012's test)."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.jobs.conftest import Workshop, run_detres


def test_comp4_files_without_annotations(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRES_DATASETS", str(workshop.data))
    for name in ("JPEGImages", "ImageSets/Main"):
        (tmp_path / "VOC" / name).mkdir(parents=True)
    (tmp_path / "VOC" / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    Image.new("RGB", (80, 60)).save(tmp_path / "VOC" / "JPEGImages" / "a.jpg")
    names = json.loads((workshop.data / "digits/annotations/instances_train.json").read_text())["categories"]
    labels = ", ".join(f'"{entry["name"]}"' for entry in names)
    split = f"{{type: voc, root: {tmp_path / 'VOC'}, split: test, annotated: false, class_names: [{labels}]}}"
    outcome = run_detres(
        *("eval", "--weights", workshop.runs / "tiny" / "best.pt", "--split", "test", "--output", tmp_path / "out"),
        *(f"data.test={split}", "eval.metric=voc", "train.best_metric=AP50"),
    )
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["metrics"]["AP50"] is None
    files = sorted((tmp_path / "out" / "comp4").iterdir())
    assert len(files) == len(names) and files[0].name.startswith("comp4_det_test_")
    lines = [line.split() for file in files for line in file.read_text().splitlines()]
    assert lines and all(line[0] == "a" and len(line) == 6 for line in lines)
