"""The whole system around small detectors: what must not change anything, and all of it together."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detres.detector import FasterRCNN
from detres.detector.test_time import DetectionSystem, Merging, Selection, View
from detres.structures import Detections, ImageBatch
from tests.detector.test_forms import make


def selection_of(model: FasterRCNN, **changes: Any) -> Selection:
    heads = model.roi_heads
    names = ("score_threshold", "nms", "nms_iou", "soft_nms_sigma", "detections_per_image", "min_size")
    return Selection(**{**{name: getattr(heads, name) for name in names}, **changes})


def resized(side: int) -> Any:
    def transform(image: Tensor) -> Tensor:
        height, width = (max(1, round(side * length / 64)) for length in image.shape[1:])
        return nn.functional.interpolate(image[None].float(), size=(height, width), mode="bilinear")[0]

    return transform


def as_read(image: Tensor) -> Tensor:
    return image


def pictures(*sizes_hw: tuple[int, int]) -> ImageBatch:
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes_hw]
    return ImageBatch.from_images(images, size_divisibility=0)


def detector(form: str = "fpn", **settings: Any) -> FasterRCNN:
    model = make(form, **settings).eval()
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.02)
    return model


def assert_same(found: list[Detections], expected: list[Detections]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert len(one) > 2 and one.image_size_hw == other.image_size_hw
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy, rtol=1e-3, atol=1e-2)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("nms", ["hard", "soft_gaussian"])
@pytest.mark.parametrize(("form", "agnostic"), [("fpn", False), ("c4", True), ("dc5", False)])
def test_one_detector_and_one_view_are_the_detector(form: str, agnostic: bool, nms: str) -> None:
    model = detector(form, class_agnostic=agnostic, nms=nms)
    images = pictures((64, 90), (80, 64))
    expected = model.predict(ImageBatch.from_images([images.pixels[0, :, :64, :90], images.pixels[1, :, :80, :64]]))
    found = DetectionSystem([model], [View(as_read)], selection_of(model)).predict(images)
    assert_same(found, expected)
    twice = DetectionSystem([model, model], [View(as_read)], selection_of(model)).predict(images)
    assert_same(twice, expected)


def test_images_are_resized_and_boxes_come_back_in_their_pixels() -> None:
    model = detector()
    images = pictures((64, 96))
    seen = ImageBatch.from_images([resized(96)(images.pixels[0])], [(64, 96)])
    expected = seen.to_original(model.predict(seen))
    found = DetectionSystem([model], [View(resized(96))], selection_of(model)).predict(images)
    assert_same(found, expected)
    assert expected[0].boxes_xyxy.max() <= 96.01


def test_a_member_with_permuted_classes_is_the_same_member() -> None:
    model, turned = detector(class_agnostic=True), detector(class_agnostic=True)
    state, order = model.state_dict(), [2, 0, 1]  # class k of `model` is class order.index(k) of `turned`
    for kind in ("weight", "bias"):
        key = f"roi_heads.box_predictor.cls_score.{kind}"
        state[key] = state[key][[*order, 3]]
    turned.load_state_dict(state)
    images = pictures((64, 90))
    alone = DetectionSystem([model], [View(as_read)], selection_of(model)).predict(images)
    columns = [[0, 1, 2], [order.index(k) for k in range(3)]]
    both = DetectionSystem([model, turned], [View(as_read)], selection_of(model), columns=columns).predict(images)
    assert_same(both, alone)


@pytest.mark.parametrize("merge", ["nms", "wbf"])
def test_with_both_views_the_mirror_image_gets_the_mirrored_boxes(merge: str) -> None:
    model = detector()
    views = [View(as_read), View(as_read, flip=True)]
    system = DetectionSystem([model], views, selection_of(model), merging=Merging(merge, 0.5, 0.0, 100))
    images = pictures((64, 96))
    mirrored = ImageBatch.from_images([images.pixels[0].flip(-1)], size_divisibility=0)
    found, other = system.predict(images)[0], system.predict(mirrored)[0]
    x1, y1, x2, y2 = other.boxes_xyxy.unbind(1)
    back = Detections(torch.stack([96 - x2, y1, 96 - x1, y2], 1), other.scores, other.labels, (), (64, 96))
    assert_same([found], [back])


def test_refinement_and_voting_add_candidates_and_move_boxes() -> None:
    model = detector()
    images = pictures((64, 90))
    plain = DetectionSystem([model], [View(as_read)], selection_of(model)).predict(images)[0]
    refined = DetectionSystem(
        [model], [View(as_read)], selection_of(model, nms_iou=0.3, voting_iou=0.5), refinement_rounds=1
    ).predict(images)[0]
    assert len(refined) and (refined.scores[:-1] >= refined.scores[1:]).all()
    assert not torch.equal(refined.boxes_xyxy[:1], plain.boxes_xyxy[:1])
    x1, y1, x2, y2 = refined.boxes_xyxy.unbind(1)
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= 90.01).all() and (y2 <= 64.01).all()


def test_everything_together() -> None:
    """Detectors of three forms and two kinds of regression, which pad differently, in one system."""
    members = [detector("fpn"), detector("c4", class_agnostic=True), detector("dc5", background="first")]
    members[1].pixels.size_divisibility = 0
    system = DetectionSystem(
        members,
        [View(resized(64)), View(resized(80), flip=True)],
        selection_of(members[0], nms_iou=0.3, voting_iou=0.5, detections_per_image=7),
        columns=[[0, 1, 2], [2, 1, 0], [1, 0, 2]],
        refinement_rounds=2,
        pyramid=[resized(48), resized(64), resized(80)],
        region_size=40.0,
        merging=Merging("wbf", 0.5, 0.0, 7),
    )
    images = pictures((64, 90), (80, 64))
    found = system.eval().predict(images)
    assert [each.image_size_hw for each in found] == [(64, 90), (80, 64)]
    for each in found:
        assert len(each) == 7 and (each.scores[:-1] >= each.scores[1:]).all()
        assert torch.isfinite(each.boxes_xyxy).all() and each.boxes_xyxy.min() >= -0.01


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    model = detector()
    system = DetectionSystem(
        [model],
        [View(as_read), View(resized(80), flip=True)],
        selection_of(model, nms_iou=0.3, voting_iou=0.5),
        refinement_rounds=1,
        pyramid=[resized(48), resized(96)],
        region_size=40.0,
        merging=Merging("nms", 0.5, 0.0, 7),
    )
    images = pictures((64, 90), (64, 90))  # of one size: padding is seen by the convolutions of any detector
    found = system.predict(images)
    for number in range(2):
        alone = system.predict(ImageBatch.from_images([images.pixels[number]], size_divisibility=0))
        assert_same(alone, [found[number]])


def test_nothing_found() -> None:
    model = detector()
    views = [View(as_read), View(as_read, flip=True)]
    for merge in ("nms", "soft_nms", "wbf"):
        found = DetectionSystem(
            *([model], views, selection_of(model, score_threshold=1.0, voting_iou=0.5)),
            refinement_rounds=1,
            merging=Merging(merge, 0.5, 1.0, 100),
        ).predict(pictures((64, 90), (64, 64)))
        assert [len(each) for each in found] == [0, 0] and found[1].image_size_hw == (64, 64)


def test_systems_that_make_no_sense() -> None:
    model = detector()
    with pytest.raises(ValueError, match="at least one detector"):
        DetectionSystem([], [View(as_read)], selection_of(model))
    with pytest.raises(ValueError, match="one order of the classes"):
        DetectionSystem([model], [View(as_read)], selection_of(model), columns=[[0], [0]])
    with pytest.raises(ValueError, match="no merging"):
        DetectionSystem([model], [View(as_read)] * 2, selection_of(model))
