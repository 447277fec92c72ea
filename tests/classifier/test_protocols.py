"""Test protocols against loops over images and views with torchvision's own network and Pillow's crops."""

import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import functional as F

from detres.backbones.resnet import ResNet
from detres.classifier import Classifier, Ensemble, TenCrop, WholeImage
from detres.layers.pixels import PixelNormalizer
from detres.structures import ImageBatch

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def torchvision_network(num_classes: int = 7) -> nn.Module:
    """A ResNet-18 whose norms do something and whose scores differ widely."""
    network = torchvision.models.resnet18(weights=None, num_classes=num_classes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    nn.init.normal_(network.fc.weight, std=0.2)
    return network


def as_ours(network: nn.Module) -> Classifier:
    """The same network of detres."""
    model = Classifier(ResNet(18), network.fc.out_features, pixels=PixelNormalizer()).eval()
    state = {key if key.startswith("fc.") else f"backbone.{key}": value for key, value in network.state_dict().items()}
    own = model.state_dict()
    model.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)
    return model


@torch.no_grad()
def probabilities(network: nn.Module, views: list[Image.Image]) -> Tensor:
    """The mean of torchvision's probabilities (K,) over pictures, one after another."""
    pixels = [F.normalize(F.to_tensor(view), MEAN, STD)[None] for view in views]
    return torch.stack([network(each)[0].softmax(0) for each in pixels]).mean(dim=0)


def pictures(*sizes_hw: tuple[int, int]) -> list[Tensor]:
    """Smooth random pictures (3, h, w) uint8."""
    coarse = [torch.rand(1, 3, 4, 5) * 255 for _ in sizes_hw]
    return [
        nn.functional.interpolate(each, size=size, mode="bicubic")[0].clamp(0, 255).to(torch.uint8)
        for each, size in zip(coarse, sizes_hw, strict=True)
    ]


def ten_views(picture: Image.Image, size: int) -> list[Image.Image]:
    width, height = picture.size
    right, down = width - size, height - size
    corners = [(0, 0), (right, 0), (0, down), (right, down), (right // 2, down // 2)]
    crops = [picture.crop((x, y, x + size, y + size)) for x, y in corners]
    return [view for crop in crops for view in (crop, ImageOps.mirror(crop))]


def test_one_image_and_one_view_are_the_network_itself() -> None:
    model = as_ours(torchvision_network())
    images = ImageBatch.from_images(pictures((64, 32)))
    found = WholeImage(model).predict(images)
    torch.testing.assert_close(found, model.predict(images).log_softmax(dim=1))
    torch.testing.assert_close(Ensemble([model]).predict(images), found)
    assert not found.requires_grad


@pytest.mark.parametrize("flip", [False, True])
def test_whole_images_of_unequal_sizes_are_seen_without_their_padding(flip: bool) -> None:
    network = torchvision_network()
    given = pictures((70, 45), (45, 70), (70, 45), (33, 90))
    images = ImageBatch.from_images(given)
    assert images.pixels.shape[-2:] == (96, 96)
    found = WholeImage(as_ours(network), flip).predict(images).exp()
    as_pil = [F.to_pil_image(each) for each in given]
    expected = [probabilities(network, [each, ImageOps.mirror(each)] if flip else [each]) for each in as_pil]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert (found[0] - found[2]).abs().max() > 1e-3, "two images of one size keep their places"


def test_ten_crops_of_padded_images_of_unequal_sizes() -> None:
    network = torchvision_network()
    given = pictures((48, 67), (51, 48), (48, 48))
    found = TenCrop(as_ours(network), 48).predict(ImageBatch.from_images(given)).exp()
    expected = [probabilities(network, ten_views(F.to_pil_image(each), 48)) for each in given]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_ten_crops_are_torchvisions_where_the_centre_is_at_a_whole_pixel() -> None:
    seen: list[Tensor] = []

    class Notes(nn.Module):
        def predict(self, images: ImageBatch) -> Tensor:
            assert images.sizes_hw.tolist() == [[8, 8]] * len(images)
            seen.append(images.pixels)
            return torch.zeros(len(images), 2)

    given = pictures((12, 20), (8, 10))
    TenCrop(Notes(), 8).predict(ImageBatch.from_images(given))
    for place, picture in enumerate(given):
        theirs = F.ten_crop(picture, 8)  # five crops, then the same of the mirror image
        assert {tuple(view[place].flatten().tolist()) for view in seen} == {
            tuple(view.flatten().tolist()) for view in theirs
        }
    assert len(seen) == 10


def test_images_smaller_than_the_crop_are_refused() -> None:
    images = ImageBatch.from_images(pictures((64, 64), (64, 40)))
    with pytest.raises(ValueError, match="64 x 40 pixels .*at least 48"):
        TenCrop(as_ours(torchvision_network()), 48).predict(images)


def test_an_ensemble_averages_probabilities_whatever_the_order_of_the_classes() -> None:
    networks = [torchvision_network(3), torchvision_network(3)]
    given = pictures((40, 40), (40, 56))
    images = ImageBatch.from_images(given)
    members = [WholeImage(as_ours(network)) for network in networks]
    order = [2, 0, 1]  # the second network's class 2 is the first one's class 0, ...
    found = Ensemble(members, [[0, 1, 2], order]).predict(images).exp()
    for row, picture in zip(found, given, strict=True):
        first, second = (probabilities(network, [F.to_pil_image(picture)]) for network in networks)
        torch.testing.assert_close(row, (first + second[order]) / 2, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, Ensemble(members).predict(images).exp(), atol=1e-3)


def test_protocols_go_around_ensembles_and_inside_them() -> None:
    members = [as_ours(torchvision_network(4)) for _ in range(2)]
    images = ImageBatch.from_images(pictures((36, 40), (50, 32)))
    outside = TenCrop(Ensemble(members), 32).predict(images)
    torch.testing.assert_close(outside, Ensemble([TenCrop(each, 32) for each in members]).predict(images))


def test_wrong_ensembles_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one network"):
        Ensemble([])
    unequal = [as_ours(torchvision_network(3)), as_ours(torchvision_network(4))]
    with pytest.raises(ValueError, match="same classes, got 3, 4"):
        Ensemble(unequal).predict(ImageBatch.from_images(pictures((32, 32))))
    with pytest.raises(ValueError, match="got 1 for 2"):
        Ensemble(unequal, [[0, 1, 2]])


def test_extreme_scores_do_not_overflow() -> None:
    class Sure(nn.Module):
        def __init__(self, label: int) -> None:
            super().__init__()
            self.label = label

        def predict(self, images: ImageBatch) -> Tensor:
            return torch.zeros(len(images), 2).index_fill(1, torch.tensor([self.label]), 1e4)

    found = Ensemble([Sure(0), Sure(0), Sure(1)]).predict(ImageBatch.from_images(pictures((4, 4))))
    torch.testing.assert_close(found.exp(), torch.tensor([[2 / 3, 1 / 3]]))
