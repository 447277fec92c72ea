"""The classifier against torchvision's, and its pooling on padded batches."""

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from detres.backbones.cifar_resnet import CifarResNet
from detres.backbones.interface import FeatureSpec
from detres.backbones.resnet import ResNet
from detres.classifier import Classifier
from detres.classifier.classifier import pool_inside
from detres.jobs.benchmark.twins import randomise
from detres.layers.pixels import PixelNormalizer
from detres.structures import ImageBatch


class Patches(nn.Module):
    """A backbone that averages 4 x 4 patches."""

    feature_specs = {"c2": FeatureSpec(3, 4)}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"c2": nn.functional.avg_pool2d(pixels, 4)}


def _batch(*sizes_hw: tuple[int, int], divisibility: int = 4) -> ImageBatch:
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes_hw]
    return ImageBatch.from_images(images, size_divisibility=divisibility)


def _patches(num_classes: int = 4, **options: float) -> Classifier:
    return Classifier(Patches(), num_classes, pixels=PixelNormalizer(), **options)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        _patches(0)


def test_equal_to_torchvision_on_an_unpadded_batch() -> None:
    theirs = torchvision.models.resnet18(weights=None, num_classes=7).eval()
    ours = Classifier(ResNet(18), 7, pixels=PixelNormalizer()).eval()
    weights = {key if key.startswith("fc.") else f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    ours.load_state_dict(weights)
    images = _batch((64, 96), (64, 96))
    expected = theirs(ours.pixels(images))
    found = ours.predict(images)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_padding_does_not_change_the_scores() -> None:
    model, images = _patches().eval(), _batch((8, 12), (16, 20))
    alone = ImageBatch.from_images([images.pixels[0, :, :8, :12]], size_divisibility=4)
    torch.testing.assert_close(model.predict(images)[:1], model.predict(alone))


def test_pooling_without_padding_is_the_plain_mean() -> None:
    features = torch.randn(2, 5, 7, 3)
    images = _batch((100, 40), (100, 40), divisibility=1)
    torch.testing.assert_close(pool_inside(features, images), features.mean(dim=(2, 3)))


def test_loss_is_smoothed_cross_entropy_and_gradients_flow() -> None:
    model, images, labels = _patches(label_smoothing=0.1), _batch((8, 8), (8, 8)), torch.tensor([1, 3])
    losses = model(images, labels)
    expected = nn.functional.cross_entropy(model.predict(images), labels, label_smoothing=0.1)
    assert list(losses) == ["loss_cls", "error_top1"]
    assert losses["error_top1"] == (model.predict(images).argmax(dim=1) != labels).float().mean()
    torch.testing.assert_close(losses["loss_cls"], expected)
    losses["loss_cls"].backward()
    assert model.fc.weight.grad is not None and model.num_classes == 4


def test_dropout_acts_in_training_only() -> None:
    model, images = _patches(dropout=0.9), _batch((8, 8))
    assert torch.equal(model.eval().predict(images), model.predict(images))
    model.train()
    assert not all(torch.equal(model.predict(images), model.predict(images)) for _ in range(5))


def test_optimized_for_inference() -> None:
    """The same logits without norms; in 16 bits nearly; and no training any more."""
    model = Classifier(CifarResNet(8), 5, pixels=PixelNormalizer()).eval()
    randomise(model)
    images = ImageBatch.from_images([torch.randint(0, 256, (3, s, 32), dtype=torch.uint8) for s in (32, 20)])
    plain = model.predict(images)
    ours = copy.deepcopy(model).optimize_for_inference()
    assert not [m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(ours.predict(images), plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    half = copy.deepcopy(model).optimize_for_inference(precision="bfloat16").predict(images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0.05 * float(plain.abs().max()))
    with pytest.raises(RuntimeError, match="cannot be trained"):
        ours.train()
    with pytest.raises(RuntimeError, match="cannot be trained"):
        ours(images, torch.tensor([0, 1]))
