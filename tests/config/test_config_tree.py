"""Merging of configuration trees, and the overrides of the command line."""

import pytest

from detres.config.errors import ConfigError
from detres.config.overrides import parse_overrides
from detres.config.tree import from_plain, merge, plain


def merged(base: object, over: object) -> object:
    return plain(merge(from_plain(base, "base"), from_plain(over, "over")))


def overridden(base: object, *overrides: str) -> object:
    return plain(merge(from_plain(base, "base"), parse_overrides(overrides)))


def test_nothing_on_nothing() -> None:
    assert merged({}, {}) == {}
    assert overridden({"a": 1}) == {"a": 1}


def test_mappings_merge_and_all_else_is_replaced() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
    assert merged(base, {"a": {"c": [3]}, "d": None}) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert merged({"d": None}, {"d": {"e": 2}}) == {"d": {"e": 2}}


def test_a_changed_type_replaces_the_whole_subtree() -> None:
    base = {"backbone": {"type": "resnet", "depth": 50, "norm": "batch"}}
    assert merged(base, {"backbone": {"type": "vgg", "depth": 16}}) == {"backbone": {"type": "vgg", "depth": 16}}
    assert merged(base, {"backbone": {"type": "resnet", "depth": 18}})["backbone"]["norm"] == "batch"
    assert merged(base, {"backbone": {"depth": 18}})["backbone"]["type"] == "resnet"


def test_origins_survive_the_merge() -> None:
    tree = merge(from_plain({"a": {"b": 1, "c": 2}}, "base"), from_plain({"a": {"c": 3}}, "over"))
    assert (tree.at(("a", "b")).origin, tree.at(("a", "c")).origin) == ("base", "over")


def test_overrides_take_yaml_values() -> None:
    base = {"train": {"lr": 1, "milestones": [1]}, "neck": {"channels": 3}}
    found = overridden(base, "train.lr=1e-4", "train.milestones=[2, 3]", "neck=null", "new.key=a=b", "name='8'")
    assert found == {
        "train": {"lr": 1e-4, "milestones": [2, 3]},
        "neck": None,
        "new": {"key": "a=b"},
        "name": "8",
    }


def test_overrides_reach_into_lists() -> None:
    base = {"steps": [{"type": "a", "short": [1, 2]}, {"type": "b", "p": 1}], "sizes": [[1], [2]]}
    found = overridden(base, "steps.0.short=[256]", "sizes.1=[5]", "steps.1.type=c")
    assert found == {"steps": [{"type": "a", "short": [256]}, {"type": "c"}], "sizes": [[1], [5]]}
    assert overridden({"args": {"0": 1}}, "args.0=2") == {"args": {"0": 2}}


def test_the_order_of_different_overrides_is_free_and_the_last_of_equal_ones_counts() -> None:
    base = {"backbone": {"type": "resnet", "depth": 50, "norm": "batch"}}
    wanted = {"backbone": {"type": "vgg", "depth": 16}}
    assert overridden(base, "backbone.type=vgg", "backbone.depth=16") == wanted
    assert overridden(base, "backbone.depth=16", "backbone.type=vgg") == wanted
    assert overridden({}, "a=1", "a=2") == {"a": 2}


@pytest.mark.parametrize("text", ["", "train", "=3", "a..b=3", ".a=3", "a b=3", "--a=3 4="])
def test_malformed_overrides(text: str) -> None:
    with pytest.raises(ConfigError, match="override: got .* expected key=value"):
        parse_overrides([text])


def test_all_malformed_overrides_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["a", "b=1", "c=[", "d=2"])
    assert [mistake.key for mistake in caught.value.mistakes] == ["", "c"]


def test_an_index_outside_the_list() -> None:
    with pytest.raises(ConfigError, match=r"override: steps.1.a.3: got list index 3, expected 0 to 1"):
        overridden({"steps": [{}, {"a": [1, 2]}]}, "steps.1.a.3=1")
