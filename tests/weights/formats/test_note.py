"""The note that exports carry, and those that are not believed."""

import json
from typing import Any

import pytest

from detres.weights.formats.note import KEY, read_note, write_note

MODEL: dict[str, Any] = {
    "type": "faster_rcnn",
    "weights": "runs/a/best.pt",
    "backbone": {"type": "resnet", "depth": 18, "weights": "b.pt"},
    "roi_heads": {"background": "first", "class_agnostic": False},
}


def test_settings_and_names_come_back_without_the_weights_that_they_began_with() -> None:
    implied = read_note({KEY: write_note(MODEL, ("cat", "dog"), "last"), "epoch": 3})
    assert implied is not None and implied.class_names == ("cat", "dog") and implied.assumed == ()
    assert implied.model["roi_heads"] == {"background": "last", "class_agnostic": False}
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
        json.dumps({"model": {"backbone": {"type": "os:mkdir", "args": {"path": "x"}}}, "class_names": []}),
        "[" * 100_000,
    ],
)
def test_anything_else_is_as_no_note(text: object) -> None:
    assert read_note({KEY: text}) is None and read_note({}) is None
