"""Other libraries' backbones in networks that were optimised for inference."""

import copy

import pytest
import torch

from detres.classifier import Classifier
from detres.integrations.torchvision import TorchvisionBackbone
from detres.jobs.benchmark.twins import randomise
from detres.layers.pixels import PixelNormalizer
from detres.structures import ImageBatch


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "mobilenet_v3_small", "convnext_tiny", "swin_t"])
def test_torchvisions(name: str) -> None:
    torch.manual_seed(0)
    model = Classifier(TorchvisionBackbone(name, out_features=["c3"]), 4, pixels=PixelNormalizer()).eval()
    if name == "resnet18":
        randomise(model)
    images = ImageBatch.from_images([torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)])
    plain = model.predict(images)
    ours = copy.deepcopy(model).optimize_for_inference().predict(images)
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
    half = model.optimize_for_inference(precision="bfloat16").predict(images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.1, atol=0.1 * float(plain.abs().max()))
