"""Pictures of an evaluation are written, whole, for empty and for awkward input; tables are aligned."""

import numpy as np
import pytest
import torch
from PIL import Image

from detres.evaluation.metrics import PrecisionRecall, format_metrics, format_rows
from detres.evaluation.report import (
    Comparison,
    Mistake,
    plot_class_ap,
    plot_confusion,
    plot_precision_recall,
    save_comparison_grid,
    save_mistakes_grid,
)
from detres.structures import Detections

CURVE = PrecisionRecall("cat $1 & <b>", 0.5, np.array([0.0, 0.5, 0.5]), np.array([0.0, 0.5, 1 / 3]))
NOTHING = PrecisionRecall("dog", 0.75, np.zeros(0), np.zeros(0))


@pytest.mark.parametrize("curves", [[], [CURVE], [CURVE, NOTHING]])
def test_precision_recall(tmp_path, curves):
    plot_precision_recall(curves, tmp_path / "curves.png")
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]
    assert Image.open(tmp_path / "curves.png").width >= 600


@pytest.mark.parametrize("values", [[], [0.5, None, 0.75]])
def test_class_ap(tmp_path, values):
    rows = [{"name": f"${n}\n", "num_ground_truth": n, "AP": value} for n, value in enumerate(values)]
    plot_class_ap(rows, tmp_path / "classes.png")
    assert Image.open(tmp_path / "classes.png").width == 840


def test_comparison_grid(tmp_path):
    save_comparison_grid([], tmp_path / "empty.png", cell=80)
    assert Image.open(tmp_path / "empty.png").size == (188, 126)
    image = np.zeros((30, 60, 3), np.uint8)
    found = Detections(torch.tensor([[0.0, 0, 60, 30], [0, 0, 5, 5]]), torch.tensor([0.9, 0.1]), torch.tensor([0, 0]))
    pair = Comparison(image, torch.zeros(0, 4), torch.zeros(0).long(), found, "line\nbreak")
    save_comparison_grid([pair] * 3, tmp_path / "grid.png", class_names=["cat"], columns=2, cell=80)
    grid = Image.open(tmp_path / "grid.png")
    assert grid.size == (2 * (164 + 12) + 12, 2 * (62 + 12) + 12)  # rows are as high as their pictures
    left, right = grid.crop((12, 34, 92, 74)), grid.crop((96, 34, 176, 74))
    assert left.getcolors() == [(80 * 40, (0, 0, 0))] and len(right.getcolors()) > 2


@pytest.mark.parametrize("count", [1, 3, 30, 120])
def test_confusion(tmp_path, count):
    plot_confusion(torch.zeros(count, count, dtype=torch.int64), [f"${n}\n" for n in range(count)], tmp_path / "0.png")
    plot_confusion(7 * torch.eye(count).long(), [f"${n}\n" for n in range(count)], tmp_path / "full.png")
    without, full = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("0.png", "full.png"))
    darkest = (8, 48, 107)  # of the colours: all images of a class
    assert not (without == darkest).all(axis=-1).any() and (full == darkest).all(axis=-1).sum() > 500


def test_mistakes(tmp_path):
    save_mistakes_grid([], tmp_path / "none.png", num_images=5, cell=80)
    nothing = Image.open(tmp_path / "none.png")
    assert nothing.size == (2 * 88 + 8, 80 + 44 + 8 + 8) and len(nothing.getcolors()) > 2
    red = np.zeros((20, 40, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    save_mistakes_grid([Mistake(red, "a\nb", "c", 0.5)] * 7, tmp_path / "seven.png", num_images=9, columns=3, cell=80)
    grid = np.asarray(Image.open(tmp_path / "seven.png"))
    assert grid.shape == (3 * 132 + 8, 3 * 88 + 8, 3)
    assert (grid == (255, 0, 0)).all(axis=-1).sum() == 7 * 80 * 40


def test_tables():
    assert format_rows([]) == "(no rows)" and format_metrics({}) == "(no rows)"
    text = format_metrics({"AP": 0.5, "APs": None, "AR100": 1.0}, {"APs": "no small object"}, {"AP": "IoU 0.50:0.95"})
    assert text.splitlines() == [
        "metric   value",
        "------  ------  -----------------",
        "AP      0.5000  IoU 0.50:0.95",
        "APs        n/a  (no small object)",
        "AR100   1.0000",
    ]
    rows = [{"name": "cat", "num_ground_truth": 12, "AP": None, "reasons": {"AP": "?"}}, {"name": "a\tb", "AP": 0.25}]
    assert format_rows(rows).splitlines()[0] == "class  objects      AP" and "a?b" in format_rows(rows)
