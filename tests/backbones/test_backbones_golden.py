"""Features of R50-C4 and R50-FPN against numbers recorded from detectron2."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from detres.backbones import FPN, BackboneWithFPN, ResNet

RENAMED = [
    (r"^backbone\.fpn_lateral(\d)", lambda m: f"fpn.inner_blocks.{int(m[1]) - 2}.0"),
    (r"^backbone\.fpn_output(\d)", lambda m: f"fpn.layer_blocks.{int(m[1]) - 2}.0"),
    (r"^backbone\.bottom_up\.", "body."),
    (r"^backbone\.", ""),
    (r"stem\.conv1\.norm", "bn1"),
    (r"stem\.", ""),
    (r"res(\d)", lambda m: f"layer{int(m[1]) - 1}"),
    (r"shortcut\.norm", "downsample.1"),
    (r"shortcut", "downsample.0"),
    (r"conv(\d)\.norm", r"bn\1"),
]


def golden_weights(golden: Path, architecture: str) -> dict[str, Tensor]:
    """The backbone's weights by the golden files' rule, in torchvision's names."""
    spec = importlib.util.spec_from_file_location("weights_rule", golden / "weights_rule.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    listing = json.loads((golden / f"state_dict_{architecture}.json").read_text())
    kind, stem = rule.kind_of({key: shape for key, (shape, _) in listing.items()})
    state_dict = {}
    for key, (shape, _) in listing.items():
        if key.startswith("backbone."):
            name = key
            for pattern, replacement in RENAMED:
                name = re.sub(pattern, replacement, name)
            state_dict[name] = rule.make(key, shape, kind, stem)
    return state_dict


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
    backbone.load_state_dict(golden_weights(golden, architecture), assign=True)
    with torch.no_grad():
        features = backbone(golden_pixels(golden, divisor))
    with np.load(golden / f"golden_{architecture}.npz") as expected:
        for name, x in features.items():
            prefix = "a/feat/" + name.replace("c", "res")
            assert x.shape == tuple(expected[f"{prefix}/shape"])
            samples = x.flatten().double().numpy()[expected[f"{prefix}/index"]]
            worst = np.abs(samples - expected[f"{prefix}/value"]).max() / expected[f"{prefix}/std"]
            assert worst < 1e-4, f"{name}: off by {worst:.1e} standard deviations of the map"
