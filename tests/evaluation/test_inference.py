"""predict_all and classify_all with small fake models."""

import pytest
import torch
from torch import nn

from detres.evaluation.inference import classify_all, predict_all
from detres.structures import Batch, Detections, GroundTruth, ImageBatch


class _Detector(nn.Module):
    """Finds one box that fills each image; notes the state in which it was asked."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.BatchNorm2d(3).eval()
        self.layer = nn.Linear(4, 4)
        self.seen = []

    def predict(self, images):
        self.seen.append((self.training, torch.is_grad_enabled(), self.layer(torch.ones(1, 4)).dtype))
        sizes = images.sizes_hw.tolist()
        return [Detections(torch.tensor([[0.0, 0, w, h]]), torch.ones(1), torch.zeros(1).long()) for h, w in sizes]


class _Classifier(nn.Module):
    def predict(self, images):
        return images.pixels.float().mean(dim=(2, 3))


def _batch(ids, targets=None, skipped=()):
    images = ImageBatch.from_images([torch.full((3, 8, 4), 1, dtype=torch.uint8)] * len(ids), [(16, 12)] * len(ids))
    truth = GroundTruth.from_lists([torch.zeros(0, 4)] * len(ids), [torch.zeros(0)] * len(ids))
    return Batch(images, truth if targets is None else targets, list(ids), [f"{i}.jpg" for i in ids], skipped)


def test_no_images():
    assert predict_all(_Detector(), [], device="cpu") == []
    logits, labels, rows = classify_all(_Classifier(), [], device="cpu")
    assert logits.shape == (0, 0) and labels.shape == (0,) and rows.shape == (0,)


def test_in_order_in_original_pixels_and_modes_restored():
    model, done = _Detector(), []
    model.train()
    model.frozen.eval()
    found = predict_all(model, [_batch([1, 2]), _batch([3])], device="cpu", progress=done.append, class_names=["a"])
    assert [d.boxes_xyxy.tolist() for d in found] == [[[0, 0, 12, 16]]] * 3
    assert found[0].image_size_hw == (16, 12) and found[0].names() == ["a"]
    assert done == [2, 3]
    assert model.seen == [(False, False, torch.float32)] * 2
    assert model.training and model.layer.training and not model.frozen.training


def test_modes_are_restored_after_an_error():
    model = _Detector().train()
    model.predict = lambda images: 1 / 0
    with pytest.raises(ZeroDivisionError):
        predict_all(model, [_batch([1])], device="cpu")
    assert model.training and torch.is_grad_enabled()


def test_precision():
    model = _Detector()
    predict_all(model, [_batch([1])], device="cpu", precision="bfloat16")
    assert model.seen[0][2] == torch.bfloat16
    with pytest.raises(ValueError, match="precision must be"):
        predict_all(model, [_batch([1])], device="cpu", precision="bf16")


def test_replaced_images_count_as_empty():
    loader = [_batch([1, 3, 3], skipped=("2.jpg: truncated",))]
    with pytest.warns(UserWarning, match="2.jpg: truncated"):
        found = predict_all(_Detector(), loader, device="cpu", image_ids=[1, 2, 3])
    assert [len(d) for d in found] == [1, 0, 1]
    with pytest.raises(ValueError, match="2.jpg: truncated.*pass image_ids"):
        predict_all(_Detector(), loader, device="cpu")


def test_classify_all():
    loader = [_batch([1, 2], torch.tensor([0, 2])), _batch([3], torch.tensor([1]))]
    logits, labels, rows = classify_all(_Classifier(), loader, device="cpu")
    assert logits.shape == (3, 3) and labels.tolist() == [0, 2, 1] and rows.tolist() == [0, 1, 2]


def test_classify_all_leaves_replaced_images_out():
    loader = [_batch([1, 3, 3], torch.tensor([0, 2, 2]), skipped=("2.jpg: truncated",)), _batch([4], torch.tensor([1]))]
    with pytest.warns(UserWarning, match="they do not count: 2.jpg: truncated"):
        logits, labels, rows = classify_all(_Classifier(), loader, device="cpu", image_ids=[1, 2, 3, 4])
    assert len(logits) == 3 and labels.tolist() == [0, 2, 1] and rows.tolist() == [0, 2, 3]
    with pytest.raises(ValueError, match="2.jpg: truncated.*pass image_ids"):
        classify_all(_Classifier(), loader, device="cpu")
