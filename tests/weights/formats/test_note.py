"""The note that exports carry, and those that are not believed."""

import json
from typing import Any

import pytest

from detres.weights.formats.note import KEY, noted_format, read_note, write_note

MODEL: dict[str, Any] = {
    "type": "faster_rcnn",
    "weights": "runs/a/best.pt",
    "backbone": {"type": "resnet", "depth": 18, "weights": "b.pt"},
    "roi_heads": {"background": "first", "class_agnostic": False},
}


WHOLE: dict[str, Any] = {"model": MODEL, "class_names": [], "eval_transforms": []}
STEPS = [{"type": "resize_shortest", "short": [288], "max": 512}]


def test_settings_and_names_come_back_without_the_weights_that_they_began_with() -> None:
    implied = read_note({KEY: write_note("detectron2", MODEL, ("cat", "dog"), STEPS), "epoch": 3})
    assert implied is not None and implied.class_names == ("cat", "dog") and implied.assumed == ()
    assert implied.eval_transforms == tuple(STEPS)
    assert implied.model["roi_heads"] == {"background": "first", "class_agnostic": False}
    assert implied.model["weights"] is None and implied.model["backbone"]["weights"] is None
    assert MODEL["weights"] == "runs/a/best.pt"


@pytest.mark.parametrize(
    "text",
    [
        None,
        3,
        "",
        "{",
        "[]",
        "null",
        '{"model": 3}',
        '{"model": {"backbone": {"type": "resnet"}}}',
        json.dumps({**WHOLE, "model": {"backbone": {"type": "os:mkdir", "args": {"path": "x"}}}}),
        "[" * 100_000,
    ],
)
def test_anything_else_is_as_no_note(text: object) -> None:
    assert read_note({KEY: text}) is None and read_note({}) is None and noted_format({KEY: text}) is None
