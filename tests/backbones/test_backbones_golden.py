"""Features of R50-C4 and R50-FPN against numbers recorded from detectron2."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from detres.backbones import FPN, BackboneWithFPN, ResNet
from detres.weights.formats.detectron2 import to_detres


def golden_weights(golden: Path, architecture: str) -> dict[str, Tensor]:
    """The detector's weights by the golden files' rule, in detectron2's names."""
    spec = importlib.util.spec_from_file_location("weights_rule", golden / "weights_rule.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    listing = json.loads((golden / f"state_dict_{architecture}.json").read_text())
    return rule.fill({key: shape for key, (shape, _) in listing.items()})


def backbone_weights(golden: Path, architecture: str) -> dict[str, Tensor]:
    """The weights of the backbone alone, in detres's names."""
    weights = to_detres(golden_weights(golden, architecture))
    return {key.removeprefix("backbone."): w for key, w in weights.items() if key.startswith("backbone.")}


def golden_pixels(golden: Path, divisor: int) -> Tensor:
    bgr = np.asarray(Image.open(golden / "image_a.png").convert("RGB"))[:, :, ::-1] - np.array(
        [103.53, 116.28, 123.675]
    )
    pixels = torch.from_numpy(bgr).float().permute(2, 0, 1)
    height, width = pixels.shape[1:]
    return nn.functional.pad(pixels, (0, -width % divisor, 0, -height % divisor))[None]


def make_backbone(architecture: str) -> nn.Module:
    features = ["c2", "c3", "c4"] if architecture == "R50-C4" else ["c2", "c3", "c4", "c5"]
    resnet = ResNet(50, stride_in_1x1=True, norm="frozen_batch", out_features=features)
    return resnet if architecture == "R50-C4" else BackboneWithFPN(resnet, FPN(resnet.feature_specs))


@pytest.mark.parametrize(("architecture", "divisor"), [("R50-C4", 1), ("R50-FPN", 32)])
def test_features_are_detectron2s(golden: Path, architecture: str, divisor: int) -> None:
    with torch.device("meta"):
        backbone = make_backbone(architecture)
    backbone.load_state_dict(backbone_weights(golden, architecture), assign=True)
    with torch.no_grad():
        features = backbone(golden_pixels(golden, divisor))
    with np.load(golden / f"golden_{architecture}.npz") as expected:
        for name, x in features.items():
            prefix = "a/feat/" + name.replace("c", "res")
            assert x.shape == tuple(expected[f"{prefix}/shape"])
            samples = x.flatten().double().numpy()[expected[f"{prefix}/index"]]
            worst = np.abs(samples - expected[f"{prefix}/value"]).max() / expected[f"{prefix}/std"]
            assert worst < 1e-4, f"{name}: off by {worst:.1e} standard deviations of the map"
