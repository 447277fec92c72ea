"""The picture of a run."""

import json

import pytest

from detres.engine.curves import draw_curves


def test_a_run_without_metrics(tmp_path):
    with pytest.raises(FileNotFoundError, match="curves need a run that has trained"):
        draw_curves(tmp_path)


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_picture(tmp_path, evaluated):
    rows = [{"kind": "train", "step": s, "loss": 2 / s, "loss_a": 1 / s, "loss_b": None, "lr": 0.1} for s in (1, 2, 3)]
    if evaluated:
        rows.append({"kind": "val", "step": 3, "AP": 0.3, "APs": 0.1, "val_loss": 1.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = draw_curves(tmp_path)
    assert output == tmp_path / "curves.png" and output.read_bytes()[:4] == b"\x89PNG"
