"""Parameter groups, and optimizer state by name."""

import pytest
import torch
from torch import nn

from detres.engine.optimizer import build_optimizer, load_optimizer_state, optimizer_state

SGD = {"type": "sgd", "lr": 0.1, "weight_decay": 1e-4}


def _by_name(model, optimizer):
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: group for group in optimizer.param_groups for p in group["params"]}


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no parameter to train"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), **SGD)


def test_one_group_by_default(tiny_model):
    optimizer = build_optimizer(tiny_model, **SGD, momentum=0.8, nesterov=True)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(tiny_model.parameters()))
    assert (group["lr"], group["initial_lr"], group["momentum"], group["nesterov"]) == (0.1, 0.1, 0.8, True)


def test_norms_and_biases_have_their_own_decay(tiny_model):
    optimizer = build_optimizer(
        tiny_model, type="adamw", lr=1e-3, weight_decay=0.05, norm_weight_decay=0.0, bias_weight_decay=0.01, eps=1e-6
    )
    decays = {name: group["weight_decay"] for name, group in _by_name(tiny_model, optimizer).items()}
    assert decays == {
        "conv.weight": 0.05, "conv.bias": 0.01, "bn.weight": 0.0, "bn.bias": 0.0, "fc.weight": 0.05, "fc.bias": 0.01,
    }  # fmt: skip
    assert optimizer.param_groups[0]["eps"] == 1e-6


def test_the_first_matching_group_counts_and_frozen_parameters_are_left_out(tiny_model):
    tiny_model.conv.weight.requires_grad_(False)
    groups = [
        {"match": "^conv", "lr_factor": 0.1, "weight_decay": None},
        {"match": "bias$", "lr_factor": 2.0, "weight_decay": 0.0},
    ]
    optimizer = build_optimizer(tiny_model, **SGD, groups=groups)
    found = {n: (g["lr"], g["weight_decay"]) for n, g in _by_name(tiny_model, optimizer).items()}
    assert found == {
        "conv.bias": (pytest.approx(0.01), 1e-4),
        "bn.weight": (0.1, 1e-4),
        "bn.bias": (0.2, 0.0),
        "fc.weight": (0.1, 1e-4),
        "fc.bias": (0.2, 0.0),
    }


def test_shared_parameters_are_trained_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    optimizer = build_optimizer(model, **SGD)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3


def test_a_pattern_that_matches_nothing_or_is_none(tiny_model):
    with pytest.raises(ValueError, match=r"'backbone' matches no parameter; their names begin with bn.bias"):
        build_optimizer(tiny_model, **SGD, groups=[{"match": "backbone"}])
    with pytest.raises(ValueError, match="is not a regular expression"):
        build_optimizer(tiny_model, **SGD, groups=[{"match": "("}])


def _stepped(model, **options):
    optimizer = build_optimizer(model, **{**SGD, **options})
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_state_survives_other_groups_and_another_memory_layout(kind):
    first, second = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)) for _ in range(2))
    for parameter in first.parameters():
        parameter.grad = torch.randn_like(parameter)
    source = build_optimizer(first, **{**SGD, "type": kind})
    source.step()
    state = optimizer_state(source, first)
    second.to(memory_format=torch.channels_last)
    target = build_optimizer(second, **{**SGD, "type": kind}, groups=[{"match": "^1", "lr_factor": 0.5}])
    load_optimizer_state(target, second, state)
    key = "momentum_buffer" if kind == "sgd" else "exp_avg"
    for name, parameter in second.named_parameters():
        assert torch.equal(target.state[parameter][key], state[name][key])
        assert target.state[parameter][key].stride() == parameter.stride()
    assert [group["lr"] for group in target.param_groups] == [0.1, 0.05]


def test_state_of_other_parameters_or_another_optimizer_is_refused(tiny_model):
    state = optimizer_state(_stepped(tiny_model), tiny_model)
    tiny_model.fc.requires_grad_(False)
    with pytest.raises(ValueError, match="trained fc.bias, fc.weight, which this configuration does not train"):
        load_optimizer_state(build_optimizer(tiny_model, **SGD), tiny_model, state)
    tiny_model.fc.requires_grad_(True)
    with pytest.raises(ValueError, match="keeps momentum_buffer, AdamW keeps exp_avg, exp_avg_sq, step"):
        load_optimizer_state(build_optimizer(tiny_model, **{**SGD, "type": "adamw"}), tiny_model, state)


def test_no_momentum_has_no_state(tiny_model):
    optimizer = _stepped(tiny_model, momentum=0.0)
    load_optimizer_state(optimizer, tiny_model, optimizer_state(optimizer, tiny_model))
