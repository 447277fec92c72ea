"""Pictures of an evaluation are written, whole, for empty and for awkward input; tables are aligned."""

import numpy as np
import pytest
import torch
from PIL import Image

from detres.evaluation.metrics import PrecisionRecall, format_metrics, format_rows
from detres.evaluation.report import Comparison, plot_class_ap, plot_precision_recall, save_comparison_grid
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
