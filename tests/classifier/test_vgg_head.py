"""VGG as a classifier: torchvision's numbers, padding left out, and its layers under a detector."""

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import nn

from detres.backbones import VGG
from detres.classifier import Classifier
from detres.classifier.vgg_head import VGGHead
from detres.config import load_config
from detres.config.model import FasterRCNNSettings
from detres.layers.pixels import PixelNormalizer
from detres.structures import ImageBatch
from detres.weights import load_backbone
from detres.wiring import build_detector


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _batch(*sizes_hw: tuple[int, int], divisibility: int = 1) -> ImageBatch:
    generator = torch.Generator().manual_seed(4)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes_hw]
    return ImageBatch.from_images(images, size_divisibility=divisibility)


def test_no_images_and_no_layers() -> None:
    images = ImageBatch(torch.zeros(0, 3, 64, 64), *(torch.zeros(0, 2, dtype=torch.int64),) * 2, torch.zeros(0))
    assert VGGHead(4, channels=5, pool_size=2)(torch.zeros(0, 4, 4, 4), images).shape == (0, 5)
    head = VGGHead(4, num_fcs=0, pool_size=3)
    assert head.out_channels == 36 and head(torch.rand(2, 4, 9, 8), _batch((36, 32), (36, 32))).shape == (2, 36)


def test_vgg16_has_torchvisions_parameters_and_logits() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vgg16().eval()
        ours = Classifier(VGG(16), 1000, pixels=nn.Identity(), head=VGGHead(512)).eval()
    assert sum(p.numel() for p in ours.parameters()) == 138_357_544
    theirs.to_empty(device="cpu")
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        nn.init.uniform_(parameter, -0.1, 0.1) if name.endswith("bias") else nn.init.kaiming_uniform_(parameter)
    places = {"classifier.0": "head.fc6", "classifier.3": "head.fc7", "classifier.6": "fc"}
    state = {}
    for key, tensor in theirs.state_dict().items():
        module, _, part = key.rpartition(".")
        state[f"{places.get(module, f'backbone.{module}')}.{part}"] = tensor
    ours.load_state_dict(state, assign=True)
    ours.pixels = PixelNormalizer()
    for size in ((64, 64), (96, 80)):
        images = _batch(size)
        with torch.no_grad():
            expected = theirs(ours.pixels(images))
        assert float(expected.std()) > 0.1
        torch.testing.assert_close(ours.predict(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_pool", [True, False])
def test_padding_is_left_out_and_bins_are_torchs(max_pool: bool) -> None:
    """Cells of 4 pixels; each image's own cells are pooled as torch pools them alone."""
    images = _batch((20, 12), (40, 44), (24, 36), divisibility=8)
    features = torch.randn(3, 2, 10, 12)
    head = VGGHead(2, num_fcs=0, max_pool=max_pool, pool_size=3, dropout=0.0)
    for got, feature, (height, width) in zip(head(features, images), features, images.sizes_hw.tolist(), strict=True):
        alone = feature[None, :, : height // 4, : width // 4]
        alone = nn.functional.max_pool2d(alone, 2) if max_pool else alone
        expected = nn.functional.adaptive_avg_pool2d(alone, 3).flatten()
        torch.testing.assert_close(got, expected)


def test_dropout_follows_every_hidden_layer_in_training_only() -> None:
    head, images = VGGHead(2, channels=1000, pool_size=1, dropout=0.5), _batch((8, 8))
    for layer in head.children():
        nn.init.constant_(layer.get_parameter("weight"), 0.01)
        nn.init.ones_(layer.get_parameter("bias"))
    features = torch.ones(1, 2, 2, 2)
    whole = head.eval()(features, images)
    assert torch.equal(whole, head(features, images)) and bool((whole > 0).all())
    dropped = head.train()(features, images)
    assert 400 < int((dropped == 0).sum()) < 600


def test_too_small_an_image_is_refused() -> None:
    model = Classifier(VGG(11), 3, pixels=PixelNormalizer(), head=VGGHead(512, channels=8))
    with pytest.raises(ValueError, match="images of 40x24 pixels leave too small a map for model.head.max_pool"):
        model.logits(_batch((24, 40)))


def test_a_detector_takes_the_layers_over() -> None:
    overrides = [
        "model={backbone: {type: vgg, depth: 11}, neck: null, anchors: {sizes: [[64]]}, "
        "roi_heads: {box_head: {type: fc, channels: 16}}}"
    ]
    settings = load_config("coco_r18.yaml", overrides).config.model
    assert isinstance(settings, FasterRCNNSettings)
    detector = build_detector(settings, 4)
    classifier = Classifier(VGG(11), 9, pixels=PixelNormalizer(), head=VGGHead(512, channels=16))
    load_backbone(detector, classifier.state_dict())
    head, state = detector.roi_heads.box_head, classifier.state_dict()
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, state[f"head.{name}"]), name
    assert torch.equal(detector.backbone.state_dict()["features.0.weight"], state["backbone.features.0.weight"])
