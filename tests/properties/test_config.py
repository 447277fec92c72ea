"""Settings: overrides of every form, and configurations that are shown and loaded again."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detres.config import ConfigError, load_config
from detres.config.overrides import parse_overrides
from detres.config.show import format_resolved, format_scalar
from detres.config.tree import OVERRIDE, from_plain, merge, plain
from detres.config.yaml_reader import parse
from tests.properties.strategies import few

keys = st.from_regex(r"[a-z_]\w{0,6}", fullmatch=True).filter(lambda key: key.isascii())
texts = st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts
trees = st.dictionaries(
    keys, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)),
    max_size=4,
)  # fmt: skip


@few
@given(scalars)
def test_scalars_are_read_as_they_are_written(value: Any) -> None:
    found = parse(format_scalar(value), lambda line: "").value
    assert found == value and type(found) is type(value)


@few
@given(st.lists(keys, min_size=1, max_size=4), scalars)
def test_overrides_reach_their_key(path: list[str], value: Any) -> None:
    tree = plain(parse_overrides([f"{'.'.join(path)}={format_scalar(value)}"]))
    for key in path:
        assert isinstance(tree, dict) and list(tree) == [key]
        tree = tree[key]
    assert tree == value


@few
@given(texts, texts)
def test_whatever_is_given_as_an_override_is_read_or_refused(key: str, value: str) -> None:
    try:
        parse_overrides([f"{key}={value}"])
    except ConfigError as error:
        assert error.mistakes[0].where == OVERRIDE


@few
@given(trees, trees, trees)
def test_merging(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    one, two, three = (from_plain(tree, "x") for tree in (a, b, c))
    nothing = from_plain({}, "x")
    assert plain(merge(one, nothing)) == a and plain(merge(nothing, one)) == a and plain(merge(one, one)) == a
    assert set(plain(merge(merge(one, two), three))) == {*a, *b, *c}  # type: ignore[call-overload]
    last = plain(merge(merge(one, two), three))
    assert isinstance(last, dict) and all(last[key] == c[key] for key in c if not isinstance(c[key], dict))


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """Overrides of a shipped configuration, most of them possible together."""
    options = {
        "train.batch_size": st.integers(1, 64),
        "train.optimizer.lr": st.floats(1e-12, 1e3),
        "seed": st.integers(0, 2**53),
        "data.train.images": texts,
        "data.train.annotations": texts,
        "data.eval_transforms.0.short": st.lists(st.integers(1, 2000), min_size=1, max_size=3),
        "model.backbone.weights": st.none() | texts,
        "model.rpn.nms_iou": st.floats(0, 1),
        "model.pixels.mean": st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
        "model.roi_heads.box_head": st.sampled_from([{"type": "fc"}, {"type": "fc", "channels": 7}]),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(options)), unique=True, max_size=5))
    return [f"{key}={_flow(draw(options[key]))}" for key in chosen]


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(child)}' for key, child in value.items())}}}"
    return format_scalar(value)


@pytest.mark.parametrize("name", ["coco_r50.yaml", "demo_pretrain.yaml"])
def test_what_is_shown_loads_to_the_same(name: str) -> None:
    @few
    @given(overrides() if name == "coco_r50.yaml" else st.just([]))
    def check(changes: list[str]) -> None:
        loaded = load_config(name, changes)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shown.yaml"
            path.write_text(format_resolved(loaded), encoding="utf-8")
            assert load_config(path).config == loaded.config

    check()
