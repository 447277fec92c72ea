"""Validation losses."""

import pytest
import torch

from detres.engine.validation import validation_losses


def test_no_images(tiny_model):
    assert validation_losses(tiny_model, [], device="cpu") == {"loss": None}


@pytest.mark.parametrize("training", [True, False])
def test_means_are_per_image_and_in_evaluation_mode(tiny_model, tiny_loader, training):
    tiny_model.train(training)
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    loader = tiny_loader(size=4)
    batches = [loader.batch(1), tiny_loader(size=1).batch(5)]
    found = validation_losses(tiny_model, batches, device="cpu")
    assert tiny_model.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.state_dict().items())
    tiny_model.eval()
    first, second = ({k: v.item() for k, v in tiny_model(b.images, b.targets).items()} for b in batches)
    for name in first:
        assert found[name] == pytest.approx((4 * first[name] + second[name]) / 5)
    assert found["loss"] == pytest.approx(found["loss_cls"] + found["loss_small"])


def test_batches_with_a_replaced_image_are_left_out(tiny_model, tiny_loader):
    whole, replaced = tiny_loader().batch(2), tiny_loader().batch(0)
    assert replaced.skipped and not whole.skipped
    alone = validation_losses(tiny_model, [whole], device="cpu")
    assert validation_losses(tiny_model, [replaced, whole, replaced], device="cpu") == alone
    assert validation_losses(tiny_model, [replaced], device="cpu") == {"loss": None}


def test_bfloat16(tiny_model, tiny_loader):
    exact, rounded = (
        validation_losses(tiny_model, [tiny_loader().batch(2)], device="cpu", precision=precision)
        for precision in ("float32", "bfloat16")
    )
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.05)
