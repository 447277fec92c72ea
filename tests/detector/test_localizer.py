"""The localizer against straightforward loops: its losses, its boxes, its central crop, its padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detres.backbones.interface import FeatureSpec
from detres.detector.anchors import AnchorGenerator
from detres.detector.localizer import Localizer, central_crops
from detres.detector.target_assignment import assign, sample
from detres.structures import GroundTruth, ImageBatch
from detres.structures.boxes import pairwise_iou

SIZES, RATIOS, CLASSES = [12.0, 24.0], [0.5, 1.0], 3
NO_BOXES, NO_LABELS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)


class Trunk(nn.Module):
    """One strided convolution; its last map is c3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 8, stride=8)
        self.feature_specs = {"c2": FeatureSpec(3, 4), "c3": FeatureSpec(5, 8)}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"c2": pixels, "c3": self.conv(pixels)}


class Float(nn.Module):
    size_divisibility = 8

    def forward(self, images: ImageBatch) -> Tensor:
        return images.pixels.float() / 255


def make_localizer(num_classes: int = CLASSES, **settings: object) -> Localizer:
    anchors = AnchorGenerator([SIZES], RATIOS)
    made = Localizer(Float(), Trunk(), anchors, num_classes, channels=6, **settings)  # type: ignore[arg-type]
    for layer in (made.head.conv, made.head.cls_logits, made.head.bbox_pred):
        nn.init.normal_(layer.weight, std=0.3)  # so that classes and anchors differ
    return made.eval()


def _images(*sizes_hw: tuple[int, int]) -> ImageBatch:
    return ImageBatch.from_images([torch.randint(0, 255, (3, h, w), dtype=torch.uint8) for h, w in sizes_hw], None, 8)


def _truth(*entries: tuple[list[list[float]], list[int]]) -> GroundTruth:
    boxes = [torch.tensor(boxes).reshape(-1, 4) for boxes, _ in entries]
    return GroundTruth.from_lists(boxes, [torch.tensor(labels, dtype=torch.int64) for _, labels in entries])


def _maps(model: Localizer, images: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Of the convolutions as such: logits (N, A, K), deltas (N, A, K, 4), and the anchors (A, 4)."""
    features = model.backbone(model.pixels(images))["c3"]
    hidden = model.head.conv(features).relu()
    logits, deltas = model.head.cls_logits(hidden), model.head.bbox_pred(hidden)
    count, (height, width) = len(SIZES) * len(RATIOS), features.shape[-2:]
    anchors = AnchorGenerator([SIZES], RATIOS)([(height, width)], [8], (height * 8, width * 8))[0]
    n = len(features)
    logits = logits.reshape(n, count, model.num_classes, height, width).permute(0, 3, 4, 1, 2)
    deltas = deltas.reshape(n, count, model.num_classes, 4, height, width).permute(0, 4, 5, 1, 2, 3)
    return logits.reshape(n, -1, model.num_classes), deltas.reshape(n, -1, model.num_classes, 4), anchors


def _decode(deltas: Tensor, anchor: Tensor) -> list[float]:
    x1, y1, x2, y2 = anchor.tolist()
    dx, dy, dw, dh = deltas.tolist()
    center = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
    size = (x2 - x1) * math.exp(min(dw, math.log(62.5))), (y2 - y1) * math.exp(min(dh, math.log(62.5)))
    return [center[i] - size[i] / 2 for i in (0, 1)] + [center[i] + size[i] / 2 for i in (0, 1)]


def test_images_without_objects_have_a_class_loss_alone() -> None:
    model, images = make_localizer(batch_size=4), _images((32, 40), (32, 40))
    for truth in (_truth(([], []), ([], [])), GroundTruth.from_lists([NO_BOXES] * 2, [NO_LABELS] * 2)):
        losses = model.train()(images, truth)
        assert losses["loss_loc_box"] == 0 and losses["loss_loc_class"] > 0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_losses_against_a_loop() -> None:
    model, images = make_localizer(batch_size=6, box_loss_weight=2.0, positive_iou=0.5), _images((32, 48), (32, 48))
    truth = _truth(([[2, 3, 20, 22]], [2]), ([[20, 4, 44, 30], [1, 1, 9, 12]], [1, 1]))
    logits, deltas, anchors = _maps(model, images)
    found = assign(anchors, truth, 0.5, 0.3, low_quality=True)
    chosen = sample(found.labels, images.sampling_seeds ^ 0x4C4F43, 6, 0.5)
    class_loss = box_loss = torch.zeros(())
    count = 0
    for n in range(2):
        overlaps = pairwise_iou(truth.boxes_xyxy[n][truth.valid[n]], anchors)
        for index, positive, valid in zip(chosen.index[n], chosen.positive[n], chosen.valid[n], strict=True):
            assert valid and positive == (overlaps[:, index].max() >= 0.5 or bool(
                (overlaps[:, index] == overlaps.amax(dim=1)).any()))  # fmt: skip
            count += 1
            label, box = int(truth.labels[n, 0]), truth.boxes_xyxy[n, int(overlaps[:, index].argmax())]
            wanted = torch.tensor([float(positive and k == label) for k in range(CLASSES)])
            class_loss = class_loss + F.binary_cross_entropy_with_logits(logits[n, index], wanted, reduction="sum")
            if positive:
                x1, y1, x2, y2 = anchors[index].tolist()
                g1, h1, g2, h2 = box.tolist()
                target = torch.tensor([
                    ((g1 + g2) - (x1 + x2)) / 2 / (x2 - x1), ((h1 + h2) - (y1 + y2)) / 2 / (y2 - y1),
                    math.log((g2 - g1) / (x2 - x1)), math.log((h2 - h1) / (y2 - y1)),
                ])  # fmt: skip
                box_loss = box_loss + (deltas[n, index, label] - target).abs().sum()
    losses = model(images, truth)
    assert list(losses) == ["loss_loc_class", "loss_loc_box"] and count == 12 and chosen.positive.any(dim=1).all()
    torch.testing.assert_close(losses["loss_loc_class"], class_loss / count)
    torch.testing.assert_close(losses["loss_loc_box"], 2.0 * box_loss / count)


def test_eight_anchors_of_which_half_are_positive() -> None:
    anchors = AnchorGenerator([SIZES], RATIOS)([(8, 8)], [8], (64, 64))[0]
    truth = _truth(([anchors[100].tolist(), anchors[120].tolist()], [0, 0]))
    found = assign(anchors, truth, 0.4, 0.3, low_quality=True)
    chosen = sample(found.labels, torch.tensor([5]), 8, 0.5)
    assert chosen.valid.sum() == 8 and chosen.positive.sum() == 4


def test_a_thousand_regressions_begin_unlikely() -> None:
    model = Localizer(Float(), Trunk(), AnchorGenerator([SIZES], RATIOS), 1000, channels=4)  # type: ignore[arg-type]
    response = model.eval().respond(_images((32, 32)))
    assert response.scores.shape == (1, 1000) and response.scores.max() < 0.02
    assert model.head.cls_logits.out_channels == 4000 and model.head.bbox_pred.out_channels == 16000


def test_boxes_against_a_loop() -> None:
    model, images = make_localizer(), _images((32, 48), (24, 24))  # the second image is padded
    with torch.no_grad():
        logits, deltas, anchors = _maps(model, images)
    found = model.predict(images)
    for n, (height, width) in enumerate([(32, 48), (24, 24)]):
        rows = []
        for k in range(CLASSES):
            best, where = -math.inf, -1
            for a in range(len(anchors)):
                cell = a // (len(SIZES) * len(RATIOS))
                y, x = cell // 6 * 8, cell % 6 * 8
                if y < height and x < width and float(logits[n, a, k]) > best:
                    best, where = float(logits[n, a, k]), a
            box = torch.tensor(_decode(deltas[n, where, k], anchors[where]))
            clipped = torch.minimum(box.clamp(min=0), torch.tensor([width, height, width, height]).float())
            rows.append((1 / (1 + math.exp(-best)), k, clipped))
        rows.sort(key=lambda row: -row[0])
        assert found[n].labels.tolist() == [label for _, label, _ in rows]
        torch.testing.assert_close(found[n].scores, torch.tensor([score for score, _, _ in rows]))
        torch.testing.assert_close(found[n].boxes_xyxy, torch.stack([box for _, _, box in rows]), rtol=1e-4, atol=1e-3)
    alone = model.predict(_only(images, 1))[0]
    torch.testing.assert_close(alone.scores, found[1].scores)


def _only(images: ImageBatch, n: int) -> ImageBatch:
    height, width = images.sizes_hw[n].tolist()
    # With padding as before: the convolution over the border sees it.
    sizes = torch.tensor([[height, width]])
    return ImageBatch(images.pixels[n : n + 1], sizes, sizes, torch.zeros(1).long())


def test_given_classes_come_in_their_order() -> None:
    model, images = make_localizer(num_boxes=2), _images((32, 32), (32, 32))
    best = model.predict(images)
    assert [len(each) for each in best] == [2, 2]
    given = model.predict(images, torch.tensor([[2, 0, 2], [1, 1, 0]]))
    assert given[0].labels.tolist() == [2, 0, 2] and given[1].labels.tolist() == [1, 1, 0]
    label = int(best[0].labels[0])
    again = model.predict(images, torch.tensor([[label], [label]]))
    assert torch.equal(again[0].boxes_xyxy, best[0].boxes_xyxy[:1]) and torch.equal(again[0].scores, best[0].scores[:1])


def test_central_crops() -> None:
    images = _images((40, 30), (20, 64))
    crops, corners = central_crops(images, 24)
    assert crops.sizes_hw.tolist() == [[24, 24], [20, 24]] and corners.tolist() == [[3, 8], [20, 0]]
    assert torch.equal(crops.pixels[0], images.pixels[0, :, 8:32, 3:27])
    assert torch.equal(crops.pixels[1, :, :20], images.pixels[1, :, :20, 20:44])


def test_the_boxes_of_a_crop_are_in_the_whole_image() -> None:
    dense, images = make_localizer(), _images((48, 64))
    cropping = make_localizer(test_crop=32)
    cropping.load_state_dict(dense.state_dict())
    window = ImageBatch.from_images([images.pixels[0, :, 8:40, 16:48]], None, 8)
    inside, found = dense.respond(window), cropping.predict(images)[0]
    raw = dense.locate(inside._replace(offsets_xy=torch.tensor([[16, 8]])), found.labels[None], images)[0]
    torch.testing.assert_close(found.boxes_xyxy, raw.boxes_xyxy)
    torch.testing.assert_close(found.scores, raw.scores)
    assert (found.boxes_xyxy[:, 2] <= 64).all() and (found.boxes_xyxy[:, 3] <= 48).all()


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="at least one class, got num_classes=0"):
        make_localizer(0)
    with pytest.raises(ValueError, match="one list of anchor sizes"):
        Localizer(Float(), Trunk(), AnchorGenerator([[8.0], [16.0]]), 2)  # type: ignore[arg-type]
