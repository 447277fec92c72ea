"""`detres figure`: pictures, tables and numbers, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detres import wiring
from detres.data.views import ClassificationSubset
from tests.jobs.conftest import Outcome, Workshop

Detres = Callable[..., Outcome]


def _refused(outcome: Outcome, *needles: str) -> None:
    assert outcome.code == 1, outcome.out
    assert outcome.err.count("detres: error: ") == 1 and "Traceback" not in outcome.err
    for needle in needles:
        assert needle in outcome.err


def test_nothing_given(detres: Detres, tmp_path: Path) -> None:
    _refused(detres("figure", "errors", "--output", tmp_path / "a.png"), "no runs given")
    _refused(detres("figure", "responses", "--output", tmp_path / "a.png"), "got 0 checkpoints")
    _refused(detres("figure", "errors", "--panel", "plain", "--output", tmp_path / "a.png"), "'plain' has no runs")
    assert not list(tmp_path.iterdir())


def test_errors_of_a_finished_run(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    run = workshop.runs / "pretrain"
    outcome = detres("figure", "errors", "--output", tmp_path / "new" / "errors.png", run, f"twin={run}")
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = 100 * (1 - [row["top1"] for row in rows if row["kind"] == "val"][-1])
    content = json.loads((tmp_path / "new" / "errors.json").read_text())
    (panel,) = content["panels"]
    assert [found["run"] for found in panel["runs"]] == ["pretrain", "twin"]
    assert panel["runs"][0]["val error"] == pytest.approx(expected)
    assert panel["runs"][0]["train"]["percent"] == [100 * row["error_top1"] for row in rows if row["kind"] == "train"]
    assert f"{expected:.4f}" in outcome.out and "twin" in outcome.out and "errors.json" in outcome.out
    with Image.open(tmp_path / "new" / "errors.png") as image:
        assert image.width > 300


def test_errors_in_panels(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    run = workshop.runs / "pretrain"
    outcome = detres(
        *("figure", "errors", "--panel", "plain nets", run, "--panel", "residual nets", run, run),
        *("--top", "50", "--output", tmp_path / "errors.pdf"),
    )
    assert outcome.code == 0, outcome.err
    panels = json.loads((tmp_path / "errors.json").read_text())["panels"]
    assert [(panel["title"], len(panel["runs"])) for panel in panels] == [("plain nets", 1), ("residual nets", 2)]
    assert panels[1]["runs"][0]["run"] == str(run)  # two of one name: the whole path tells them apart
    assert "residual nets" in outcome.out and (tmp_path / "errors.pdf").read_bytes()[:4] == b"%PDF"


def test_what_errors_cannot_be_drawn_from(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    output = ("--output", tmp_path / "errors.png")
    _refused(detres("figure", "errors", workshop.runs / "tiny", *output), "expected the run of a classifier")
    _refused(detres("figure", "errors", workshop.runs / "absent", *output), "has the runs pretrain, tiny")
    _refused(detres("figure", "errors", workshop.runs / "pretrain" / "best.pt", *output), "is no folder")
    _refused(detres("figure", "errors", workshop.data, *output), "has no metrics.jsonl")
    _refused(detres("figure", "errors", workshop.runs / "pretrain", "--top", "0", *output), "top is 0")
    _refused(detres("figure", "errors", workshop.runs / "pretrain", "--output", "e.json"), "expected .png, .pdf, .svg")
    assert not list(tmp_path.iterdir())


def test_responses_of_a_checkpoint(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    checkpoint = workshop.runs / "pretrain" / "best.pt"
    outcome = detres(
        "figure", "responses", checkpoint, f"half={checkpoint}", "--output", tmp_path / "r.png", "--device", "cpu"
    )
    assert outcome.code == 0, outcome.err
    first, second = json.loads((tmp_path / "r.json").read_text())["networks"]
    assert (first["label"], second["label"]) == ("pretrain", "half") and not first["is_plain"]
    assert first["std"] == second["std"] and len(first["std"]) == len(first["layers"]) == 8
    assert first["std"] == pytest.approx(_stds_by_hooks(checkpoint), rel=1e-4)
    assert f"{np.mean(first['std']):.4f}" in outcome.out and "r.json" in outcome.out
    with Image.open(tmp_path / "r.png") as image:
        assert image.width > 300


def _stds_by_hooks(checkpoint: Path) -> list[float]:
    """The same from torch's own layers: the block's norms are called by hand on the maps that their convs put out."""
    model, config, names = wiring.model_from_checkpoint(checkpoint)
    loader = wiring.build_eval_loader(config, wiring.build_eval_dataset(config, names))
    maps: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch in loader:
            x = model.backbone.bn1(model.backbone.conv1(model.pixels(batch.images)))
            x = nn.functional.max_pool2d(x.relu(), 3, 2, 1)
            for stage_name, stage in (("layer1", model.backbone.layer1), ("layer2", model.backbone.layer2)):
                for number, block in enumerate(stage):
                    inner = block.bn1(block.conv1(x))
                    outer = block.bn2(block.conv2(inner.relu()))
                    maps.setdefault(f"{stage_name}.{number}.1", []).append(inner)
                    maps.setdefault(f"{stage_name}.{number}.2", []).append(outer)
                    x = (outer + block.downsample(x)).relu()
    return [torch.cat(parts).double().std(correction=0).item() for parts in maps.values()]


def test_responses_of_fewer_images_spread_over_the_set(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    checkpoint = workshop.runs / "pretrain" / "best.pt"
    outcome = detres("figure", "responses", "--images", "2", "--output", tmp_path / "r.svg", checkpoint)
    assert outcome.code == 0, outcome.err
    (network,) = json.loads((tmp_path / "r.json").read_text())["networks"]
    assert network["num_images"] == 2 and "on 2 validation images" in outcome.out


def test_what_responses_cannot_be_drawn_from(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    output = ("--output", tmp_path / "r.png")
    checkpoint = workshop.runs / "pretrain" / "best.pt"
    detector = workshop.runs / "tiny" / "best.pt"
    _refused(detres("figure", "responses", detector, *output), "holds a detector; expected a classifier")
    _refused(detres("figure", "responses", workshop.runs / "pretrain", *output), "is a folder, expected a checkpoint")
    _refused(detres("figure", "responses", checkpoint, "--top", "9", *output), "belong to figure errors")
    _refused(detres("figure", "responses", checkpoint, "--images", "0", *output), "0 images")
    assert not list(tmp_path.iterdir())


class _Numbers:
    """Ten images of the value of their index."""

    class_names = ("even", "odd")

    def __len__(self) -> int:
        return 10

    def image_id(self, index: int) -> str:
        return f"id {index}"

    def file(self, index: int) -> str:
        return f"file {index}"

    def read(self, index: int) -> np.ndarray:
        return np.full((2, 2, 3), index, np.uint8)

    def label(self, index: int) -> int:
        return index % 2


def test_a_subset_of_a_classification_set() -> None:
    assert len(ClassificationSubset(_Numbers(), [])) == 0
    subset = ClassificationSubset(_Numbers(), [7, 2])
    assert [subset.image_id(i) for i in range(len(subset))] == ["id 7", "id 2"]
    assert subset.file(1) == "file 2" and subset.read(0)[0, 0, 0] == 7 and subset.label(0) == 1
    assert subset.class_names == ("even", "odd")
