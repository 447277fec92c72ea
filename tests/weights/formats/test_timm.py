"""timm's names, on timm's own models."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from detres import wiring
from detres.config import load_config
from detres.weights.formats import recognise
from detres.weights.formats import timm as format
from detres.weights.report import WeightsError

timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")

PLAIN = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_64x4d"]
VARIANTS = ["wide_resnet50_2", "resnet18d", "resnet34d", "resnet50d", "resnet101d", "resnet152d", "resnext50d_32x4d"]


def _settings(backbone: dict[str, Any]) -> list[str]:
    return [f"model.backbone.{key}={json.dumps(value)}" for key, value in backbone.items()]


@pytest.mark.parametrize("name", [*PLAIN, *VARIANTS, "resnet50_gn"])
def test_there_and_back_and_into_the_network_that_the_shapes_imply(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=5).state_dict()
        ours = format.to_detres(state)
        implied = format.implied(state, {})
        built = wiring.build_model(load_config("imagenet_r50.yaml", _settings(implied.model["backbone"])).config, 5)
    assert {key: tensor.shape for key, tensor in built.state_dict().items()} == {k: t.shape for k, t in ours.items()}
    back = format.from_detres(ours)
    assert list(back) == list(state) and all(back[key] is state[key] for key in state)
    assert recognise(state) == ("timm" if name in VARIANTS[1:] else None), "the others have torchvision's names"
    (line, *_) = format.instructions(merged(implied.model), ours)
    assert line == f"timm.create_model('{name}', num_classes=5)"


def merged(model: dict[str, Any]) -> dict[str, Any]:
    pixels = {"mean": [127.5] * 3, "std": [127.5] * 3, "channel_order": "rgb"}
    return {**model, "pixels": pixels}


@pytest.mark.parametrize("name", ["resnet18", "resnet18d", "resnet50d"])
def test_the_same_logits(name: str) -> None:
    theirs = timm.create_model(name, num_classes=5).eval()
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.bias, 0, 0.2)
        nn.init.uniform_(norm.weight, 0.5, 1.0)
    state = theirs.state_dict()
    config = load_config("imagenet_r50.yaml", _settings(format.implied(state, {}).model["backbone"])).config
    ours = wiring.build_model(config, 5).eval()
    ours.load_state_dict(format.to_detres(state))
    pixels = torch.randn(2, 3, 65, 64)
    with torch.no_grad():
        wanted = theirs(pixels)
        features = ours.backbone(pixels)
        found = ours.fc(list(features.values())[-1].mean(dim=(2, 3)))
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_networks_that_detres_does_not_build_are_refused_with_their_keys() -> None:
    with torch.device("meta"):
        state = timm.create_model("seresnet50").state_dict()
    with pytest.raises(WeightsError, match=r"timm: .* tensors have no place in a ResNet of detres: layer1\.0\.se\.fc1"):
        format.to_detres(state)
