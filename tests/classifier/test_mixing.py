"""Mixup and CutMix: hand-made batches, torchvision's and scipy's numbers, and the loss of two labels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from detres.classifier import Classifier, Mixing
from detres.classifier.mixing import beta_quantiles
from detres.layers.pixels import PixelNormalizer
from detres.structures import ImageBatch
from tests.classifier.test_classifier import Patches


def _batch(count: int, *, first_seed: int = 0, size: int = 24, divisibility: int = 1) -> ImageBatch:
    """Images of one value each: image i is filled with i (modulo 256)."""
    images = [torch.full((3, size, size), i % 256, dtype=torch.uint8) for i in range(count)]
    seeds = [first_seed + 7919 * i for i in range(count)]
    return ImageBatch.from_images(images, size_divisibility=divisibility, sampling_seeds=seeds)


def _classifier(**mixing: Any) -> Classifier:
    return Classifier(Patches(), 5, pixels=PixelNormalizer(), label_smoothing=0.1, mixing=Mixing(**mixing))


def test_a_single_image_is_its_own_partner() -> None:
    images = ImageBatch.from_images([torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)], size_divisibility=1)
    mixed = Mixing()(images, torch.tensor([3]))
    assert torch.equal(mixed.images.pixels, images.pixels.float()) and mixed.partners.tolist() == [3]


@pytest.mark.parametrize("alphas", [(0.0, 0.0), (-1.0, 1.0)])
def test_nothing_to_mix_by_is_refused(alphas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="mixup or cutmix above 0"):
        Mixing(*alphas)


def test_unequal_sizes_are_refused() -> None:
    images = ImageBatch.from_images([torch.zeros(3, 8, 8), torch.zeros(3, 8, 6)])
    with pytest.raises(ValueError, match="unequal sizes in one batch .6 x 8, 8 x 8 ...*random_resized_crop"):
        Mixing()(images, torch.tensor([0, 1]))


def test_no_image_is_mixed_with_probability_zero() -> None:
    images = _batch(50)
    mixed = Mixing(probability=0.0)(images, torch.arange(50))
    assert torch.equal(mixed.images.pixels, images.pixels.float()) and (mixed.share == 1).all()


def test_mixup_blends_with_the_next_image() -> None:
    mixed = Mixing(1.0, 0.0)(_batch(200), torch.arange(200))
    assert mixed.partners.tolist() == [*range(1, 200), 0]
    expected = mixed.share * torch.arange(200) + (1 - mixed.share) * mixed.partners
    pixels = mixed.images.pixels
    torch.testing.assert_close(pixels[:, 0, 0, 0], expected)
    assert torch.equal(pixels.amin(dim=(1, 2, 3)), pixels.amax(dim=(1, 2, 3)))


@pytest.mark.parametrize("divisibility", [1, 32])
def test_cutmix_pastes_one_rectangle_of_the_next_image(divisibility: int) -> None:
    mixed = Mixing(0.0, 1.0)(_batch(200, divisibility=divisibility), torch.arange(200))
    for index, share in enumerate(mixed.share.tolist()):
        pixels = mixed.images.pixels[index, :, :24, :24]
        pasted = pixels[0] == (index + 1) % 200
        assert ((pixels == index) | pasted).all()
        assert share == pytest.approx(1 - pasted.sum().item() / 24**2, abs=1e-6)
        if pasted.any():
            rows, columns = torch.nonzero(pasted, as_tuple=True)
            assert pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def _torchvisions_shares(policy: Any, count: int) -> np.ndarray:
    """The share of each image's own label in torchvision's mixtures of batches of two, labels 0 and 1."""
    images, labels = torch.zeros(2, 3, 24, 24), torch.tensor([0, 1])
    return np.array([policy(images, labels)[1][0, 0].item() for _ in range(count)])


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.3)])
def test_shares_are_distributed_as_torchvisions(mixup: float, cutmix: float) -> None:
    images = _batch(2000)
    ours = np.sort(Mixing(mixup, cutmix)(images, torch.zeros(2000, dtype=torch.long)).share.numpy())
    policy = v2.MixUp(alpha=mixup, num_classes=2) if mixup else v2.CutMix(alpha=cutmix, num_classes=2)
    theirs = np.sort(_torchvisions_shares(policy, 2000))
    # Kolmogorov and Smirnov: two samples of 2000 differ by more than 0.06 in one of a thousand cases
    grid = np.linspace(0, 1, 200, endpoint=False)[1:]
    shares = [np.searchsorted(sample, grid) / 2000 for sample in (ours, theirs)]
    assert np.abs(shares[0] - shares[1]).max() < 0.06


def test_both_methods_share_the_images() -> None:
    images, labels = _batch(240), torch.arange(240)
    mixed = Mixing(1.0, 1.0, probability=0.8, switch_probability=0.25)(images, labels)
    pixels = mixed.images.pixels[:, 0].flatten(1)
    blended = (pixels.amin(dim=1) == pixels.amax(dim=1)) & (pixels[:, 0] != images.pixels[:, 0, 0, 0])
    whole = (mixed.share == 1) | (mixed.share == 0)
    assert 0.5 < blended.float().mean() < 0.7, "0.8 * 0.75"
    assert 0.1 < (~blended & ~whole).float().mean() < 0.25, "0.8 * 0.25, less the rectangles without a pixel"


def test_an_image_s_numbers_come_from_its_seed_alone() -> None:
    images, mixing = _batch(8), Mixing(1.0, 1.0)
    shares = mixing(images, torch.arange(8)).share
    torch.manual_seed(5)
    assert torch.equal(Mixing(1.0, 1.0)(images, torch.arange(8)).share, shares)
    backwards = ImageBatch(*(getattr(images, name).flip(0) for name in images.__dataclass_fields__))
    assert torch.equal(mixing(backwards, torch.arange(8)).share.flip(0), shares)
    assert len(shares.unique()) > 6
    other = mixing(_batch(8, first_seed=1), torch.arange(8)).share
    assert not torch.equal(other, shares)


def test_nothing_is_read_back_on_the_way() -> None:
    """A compiled graph without a break: no number leaves the device, no branch depends on one."""
    mixing, images, labels = Mixing(), _batch(6), torch.arange(6)
    compiled = torch.compile(mixing, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images, labels).images.pixels, mixing(images, labels).images.pixels)


def test_quantiles_of_a_uniform_distribution_are_themselves() -> None:
    torch.testing.assert_close(beta_quantiles(1.0, 5), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert beta_quantiles(0.2)[2048] == pytest.approx(0.5)
    assert beta_quantiles(2.0, 5)[1] == pytest.approx(0.326352, abs=1e-5), "3 x^2 - 2 x^3 = 1/4"


def test_the_loss_is_cross_entropy_with_shared_labels() -> None:
    model, labels = _classifier(mixup=1.0, cutmix=1.0), torch.arange(20) % 5
    images = _batch(20)
    losses = model(images, labels)
    mixed = model.mixing(images, labels) if model.mixing else pytest.fail("no mixing")
    soft = mixed.share[:, None] * F.one_hot(labels, 5) + (1 - mixed.share)[:, None] * F.one_hot(mixed.partners, 5)
    logits = model.logits(mixed.images)
    torch.testing.assert_close(losses["loss_cls"], F.cross_entropy(logits, soft, label_smoothing=0.1))
    wrong = (logits.argmax(dim=1) != soft.argmax(dim=1)).float().mean()
    torch.testing.assert_close(losses["error_top1"], wrong)
    losses["loss_cls"].backward()
    assert model.fc.weight.grad is not None and list(losses) == ["loss_cls", "error_top1"]


def test_evaluation_does_not_mix_and_checkpoints_do_not_change() -> None:
    model, labels, images = _classifier().eval(), torch.arange(4), _batch(4)
    expected = nn.functional.cross_entropy(model.predict(images), labels, label_smoothing=0.1)
    torch.testing.assert_close(model(images, labels)["loss_cls"], expected)
    assert set(model.state_dict()) == {"fc.weight", "fc.bias"}
