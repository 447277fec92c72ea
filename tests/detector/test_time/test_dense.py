"""Dense testing of localizers against loops and hand-made numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detres.detector.localizer import Response
from detres.detector.test_time import DenseLocalizer, View
from detres.structures import Detections, ImageBatch
from tests.detector.test_localizer import make_localizer
from tests.detector.test_time.test_system import as_read, pictures, resized

SIZES = (48, 80)  # resized() makes them of sides of 64


def _weighted(boxes: list[list[float]], scores: list[float]) -> list[float]:
    return [sum(s * box[i] for s, box in zip(scores, boxes, strict=True)) / sum(scores) for i in range(4)]


def _iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def test_no_views_and_no_classes() -> None:
    with pytest.raises(ValueError, match="at least one view, got none"):
        DenseLocalizer(make_localizer(), [])
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    found = DenseLocalizer(make_localizer(), [View(as_read), View(as_read, True)]).predict(
        pictures(*2 * [(32, 40)]), nothing
    )
    assert [len(each) for each in found] == [0, 0]


@pytest.mark.parametrize("voting_iou", [None, 0.5])
@pytest.mark.parametrize("test_crop", [None, 24])
def test_one_view_is_the_whole_image_as_it_is(test_crop: int | None, voting_iou: float | None) -> None:
    model = make_localizer(num_boxes=2)
    images = pictures((48, 64), (40, 72))
    expected = model.predict(
        ImageBatch.from_images([images.pixels[0, :, :48, :64], images.pixels[1, :, :40, :72]], None, 8)
    )
    model.test_crop = test_crop
    found = DenseLocalizer(model, [View(as_read)], voting_iou).predict(images)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.labels, other.labels) and len(one) == 2
        torch.testing.assert_close(one.scores, other.scores)
        torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy)
    assert found[1].image_size_hw == (40, 72)


@pytest.mark.parametrize("voting_iou", [None, 0.2, 0.5])
def test_two_sizes_and_mirror_images_against_a_loop(voting_iou: float | None) -> None:
    """Every view shown, looked at and mapped back by hand, its box found by the localizer as it is without views."""
    model, image = make_localizer(), torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    labels = torch.tensor([[2, 0, 1]])
    boxes: list[list[list[float]]] = [[], [], []]
    scores: list[list[float]] = [[], [], []]
    for side in SIZES:
        for mirrored in (False, True):
            shown = resized(side)(image)
            height, width = shown.shape[1:]
            seen = ImageBatch.from_images([shown[:, :, range(width - 1, -1, -1)] if mirrored else shown], None, 8)
            assert (height, width) == (side, side * 3 // 2)
            one = model.predict(seen, labels)[0]
            for k in range(3):
                x1, y1, x2, y2 = (value * 64 / side for value in one.boxes_xyxy[k].tolist())
                boxes[k].append([96 - x2, y1, 96 - x1, y2] if mirrored else [x1, y1, x2, y2])
                scores[k].append(float(one.scores[k]))
    views = [View(resized(side), flip) for side in SIZES for flip in (False, True)]
    images = ImageBatch.from_images([image], size_divisibility=0)
    found = DenseLocalizer(model, views, voting_iou).predict(images, labels)[0]
    assert found.labels.tolist() == [2, 0, 1] and found.image_size_hw == (64, 96)
    for k in range(3):
        best = boxes[k][scores[k].index(max(scores[k]))]
        threshold = 1.0 if voting_iou is None else voting_iou
        near = [i for i in range(4) if boxes[k][i] == best or _iou(boxes[k][i], best) >= threshold]
        expected = _weighted([boxes[k][i] for i in near], [scores[k][i] for i in near])
        assert found.boxes_xyxy[k].tolist() == pytest.approx(expected, abs=1e-2)
        assert float(found.scores[k]) == pytest.approx(sum(scores[k]) / 4, abs=1e-5)
    likely = DenseLocalizer(model, views, voting_iou).predict(images)[0]
    means = {int(label): sum(each) / 4 for label, each in zip(labels[0], scores, strict=True)}
    assert likely.labels.tolist() == sorted(means, key=lambda label: -means[label])


class Told(nn.Module):
    """In place of a localizer: boxes and scores as written, by the width of what it sees; two classes."""

    def __init__(self, told: dict[int, tuple[list[list[float]], list[float]]]) -> None:
        super().__init__()
        self.told, self.pixels = told, nn.Module()
        self.pixels.size_divisibility = 0  # type: ignore[assignment]

    def respond(self, seen: ImageBatch, *, whole: bool) -> Response:
        assert whole
        none = torch.zeros(0)
        return Response(torch.tensor([self.told[int(seen.sizes_hw[0, 1])][1]]), none, none, none, none)

    def locate(self, response: Response, labels: Tensor, seen: ImageBatch) -> list[Detections]:
        boxes = torch.tensor(self.told[int(seen.sizes_hw[0, 1])][0])
        return [Detections(boxes[labels[0]], response.scores[0, labels[0]], labels[0])]


def _told(voting_iou: float | None, *views: View) -> Detections:
    """Class 0 overlaps between the sizes, with an IoU of 30/34; class 1 does not."""
    at_size = {
        64: ([[8.0, 8, 40, 40], [0, 0, 10, 10]], [0.8, 0.2]),
        128: ([[20.0, 16, 84, 80], [60, 60, 80, 90]], [0.4, 0.6]),
    }
    system = DenseLocalizer(Told(at_size), views, voting_iou)  # type: ignore[arg-type]
    return system.predict(pictures((64, 64)), torch.tensor([[1, 0]]))[0]


def test_boxes_and_scores_by_hand() -> None:
    small, large = View(as_read), View(resized(128))
    found = _told(0.5, small, large)
    assert found.labels.tolist() == [1, 0] and found.scores.tolist() == pytest.approx([0.4, 0.6])
    between = [(0.8 * 8 + 0.4 * 10) / 1.2, 8, (0.8 * 40 + 0.4 * 42) / 1.2, 40]  # of [8, 8, 40, 40], [10, 8, 42, 40]
    assert found.boxes_xyxy[0].tolist() == pytest.approx([30, 30, 40, 45])
    assert found.boxes_xyxy[1].tolist() == pytest.approx(between)
    for voting_iou in (0.9, None):
        alone = _told(voting_iou, small, large).boxes_xyxy
        torch.testing.assert_close(alone, torch.tensor([[30.0, 30, 40, 45], [8, 8, 40, 40]]))
    mirrored = _told(0.5, View(resized(128), flip=True))
    torch.testing.assert_close(mirrored.boxes_xyxy, torch.tensor([[24.0, 30, 34, 45], [22, 8, 54, 40]]))
    both = _told(None, small, View(as_read, flip=True)).boxes_xyxy
    assert both.tolist() == [[0, 0, 10, 10], [8, 8, 40, 40]]  # of equal scores the first view's


def test_with_both_views_the_mirror_image_gets_the_mirrored_boxes() -> None:
    system = DenseLocalizer(make_localizer(), [View(resized(48), flip) for flip in (False, True)])
    images = pictures((64, 96))
    mirrored = ImageBatch.from_images([images.pixels[0].flip(-1)], size_divisibility=0)
    found, other = system.predict(images)[0], system.predict(mirrored)[0]
    x1, y1, x2, y2 = other.boxes_xyxy.unbind(1)
    torch.testing.assert_close(found.boxes_xyxy, torch.stack([96 - x2, y1, 96 - x1, y2], 1), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found.scores, other.scores)
    assert torch.equal(found.labels, other.labels)


def test_images_of_a_batch_keep_to_themselves() -> None:
    """Of equal sizes, so that no padding differs: each gets what it gets alone."""
    system: Any = DenseLocalizer(
        make_localizer(), [View(resized(side), flip) for side in SIZES for flip in (False, True)]
    )
    images = pictures((64, 96), (64, 96))
    labels = torch.tensor([[0, 1], [2, 2]])
    found = system.predict(images, labels)
    for n in range(2):
        alone = system.predict(ImageBatch.from_images([images.pixels[n]], size_divisibility=0), labels[n : n + 1])[0]
        torch.testing.assert_close(found[n].boxes_xyxy, alone.boxes_xyxy, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found[n].scores, alone.scores)
