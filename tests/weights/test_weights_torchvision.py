"""Whole classifiers in torchvision's names: into ours and back, bit for bit, with the same logits."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from detres.backbones import VGG, ResNet
from detres.classifier import Classifier
from detres.layers.pixels import PixelNormalizer
from detres.structures import ImageBatch
from detres.weights import WeightsError, classifier_from_torchvision, classifier_to_torchvision, load_weights

FAMILY: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (18, {}),
    "resnet34": (34, {}),
    "resnet50": (50, {}),
    "resnet101": (101, {}),
    "resnet152": (152, {}),
    "resnext50_32x4d": (50, {"groups": 32, "width_per_group": 4}),
    "wide_resnet50_2": (50, {"width_per_group": 128}),
}


def _theirs(name: str, num_classes: int = 1000) -> nn.Module:
    """torchvision's network with norms that have seen something."""
    network = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    for number, norm in enumerate(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2.0)
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.2)
        norm.num_batches_tracked.fill_(1000 + number)
    return network.eval()


def _ours(depth: int, options: dict[str, Any], num_classes: int = 1000) -> Classifier:
    """Our network without any initialisation, so that a tensor that was not loaded shows."""
    with torch.device("meta"):
        backbone = ResNet(depth, **options)
    for tensor in (backbone := backbone.to_empty(device="cpu")).state_dict().values():
        tensor.fill_(7)
    return Classifier(backbone, num_classes, pixels=PixelNormalizer()).eval()


def _same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key


def test_an_empty_state_dict() -> None:
    assert classifier_from_torchvision({}) == classifier_to_torchvision({}) == {}
    with pytest.raises(WeightsError, match="another architecture"):
        load_weights(_ours(18, {}), {})


@pytest.mark.parametrize("name", FAMILY)
def test_there_and_back_again(name: str) -> None:
    theirs, ours = _theirs(name), _ours(*FAMILY[name])
    state = theirs.state_dict()
    report = load_weights(ours, state)
    assert report.keys("skipped", "missing", "rows", "reshaped") == []
    _same(classifier_to_torchvision(ours.state_dict()), state)
    _same(classifier_to_torchvision(classifier_from_torchvision(state)), state)
    images = ImageBatch.from_images(list(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)))
    with torch.no_grad():
        expected, found = theirs(ours.pixels(images)), ours.predict(images)
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    back = torchvision.models.get_model(name, weights=None)
    back.load_state_dict(classifier_to_torchvision(ours.state_dict()))


def test_linear_is_the_name_of_fc_in_public_cifar_networks() -> None:
    state = {"conv1.weight": torch.zeros(1), "linear.weight": torch.ones(2, 3), "linear.bias": torch.ones(2)}
    assert list(classifier_from_torchvision(state)) == ["backbone.conv1.weight", "fc.weight", "fc.bias"]


def test_vgg_names() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vgg16_bn(weights=None).state_dict()
        backbone = VGG(16, norm="batch").state_dict()
    ours = classifier_from_torchvision(theirs)
    heads = {f"{layer}.{part}" for layer in ("head.fc6", "head.fc7", "fc") for part in ("weight", "bias")}
    assert ours.keys() == {f"backbone.{key}" for key in backbone} | heads
    assert ours["head.fc7.weight"].shape == (4096, 4096) and ours["fc.weight"].shape == (1000, 4096)
    assert classifier_to_torchvision(ours).keys() == theirs.keys()


def test_a_detector_is_no_classifier() -> None:
    with pytest.raises(ValueError, match="expected the state dict of a detres classifier.*found rpn"):
        classifier_to_torchvision({"backbone.conv1.weight": torch.ones(1), "rpn.head.weight": torch.ones(1)})


def test_a_mean_image_stays_behind_on_the_way_out_and_is_asked_for_on_the_way_in() -> None:
    model = Classifier(ResNet(18), 3, pixels=PixelNormalizer(per_pixel_mean=8))
    out = classifier_to_torchvision(model.state_dict())
    assert out.keys() == torchvision.models.resnet18(num_classes=3).state_dict().keys()
    with pytest.raises(WeightsError, match=r"pixels\.mean_image is not in the file.*per_pixel_mean=null"):
        load_weights(model, out)


def test_another_number_of_classes_starts_the_head_anew_and_says_so() -> None:
    theirs, ours = _theirs("resnet18", 5), _ours(18, {}, num_classes=4)
    fresh = ours.fc.weight.clone()
    report = load_weights(ours, theirs.state_dict(), class_names=("a", "b", "c", "d"), source="five.pth")
    assert torch.equal(ours.backbone.conv1.weight, theirs.conv1.weight) and torch.equal(ours.fc.weight, fresh)
    assert report.keys("skipped") == ["fc.weight", "fc.bias"]
    assert report.initial_classes == ("a", "b", "c", "d")
    assert "5 classes in the file, 4 in the model" in report.table()


def test_another_depth_is_refused_under_the_models_names() -> None:
    with pytest.raises(WeightsError, match=r"another architecture.*backbone\.layer1\.2\.conv1\.weight is not in the"):
        load_weights(_ours(34, {}), _theirs("resnet18").state_dict())
