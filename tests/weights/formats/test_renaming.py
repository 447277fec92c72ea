"""Two-way renaming from one table of pairs."""

import pytest
import torch

from detres.weights.formats.renaming import Renaming
from detres.weights.report import WeightsError

PAIRS = [
    ("res2.{i}.conv{n}.norm.{leaf}", "layer1.{i}.bn{n}.{leaf}"),
    ("res2.{i}.conv{n}.{affine}", "layer1.{i}.conv{n}.{affine}"),
    ("fc.{affine}", "fc.{affine}"),
]


def test_an_empty_state_dict() -> None:
    assert Renaming(PAIRS).to_ours({}, "x") == Renaming([]).to_theirs({}, "x") == {}


def test_there_and_back_keeps_the_tensors_themselves() -> None:
    theirs = {
        "res2.11.conv3.norm.running_var": torch.ones(2),
        "res2.0.conv1.weight": torch.zeros(1),
        "fc.bias": torch.ones(1),
    }
    ours = Renaming(PAIRS).to_ours(theirs, "x")
    assert list(ours) == ["layer1.11.bn3.running_var", "layer1.0.conv1.weight", "fc.bias"]
    back = Renaming(PAIRS).to_theirs(ours, "x")
    assert list(back) == list(theirs) and all(back[key] is theirs[key] for key in theirs)


def test_keys_without_a_name_are_listed() -> None:
    state = {"fc.weight": torch.ones(1), "res2.a.conv1.weight": torch.ones(1), "fc.running_mean": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"toolkit: 2 of 3 tensors have no place in it: res2\.a.*, fc\.running_mean"):
        Renaming(PAIRS).to_ours(state, "toolkit")


def test_ignorable_keys_are_left_out_by_their_beginning() -> None:
    state = {"fc.weight": torch.ones(1), "pixel_mean": torch.ones(3)}
    assert list(Renaming(PAIRS).to_ours(state, "x", [r"pixel_(mean|std)$"])) == ["fc.weight"]
    with pytest.raises(WeightsError, match="pixel_mean"):
        Renaming(PAIRS).to_ours(state, "x", [r"mean"])


def test_two_keys_of_one_name_are_an_error() -> None:
    pairs = [("a.{leaf}", "c.{leaf}"), ("b.{leaf}", "c.{leaf}")]
    with pytest.raises(WeightsError, match=r"1 of 2 tensors have no place in it: b\.weight"):
        Renaming(pairs).to_ours({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, "x")


def test_dots_of_names_are_dots() -> None:
    with pytest.raises(WeightsError, match="fcxbias"):
        Renaming(PAIRS).to_ours({"fcxbias": torch.ones(1)}, "x")
