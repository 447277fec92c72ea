"""Maxout over two scales against a loop over regions."""

import pytest
import torch
from torch import Tensor

from detres import wiring
from detres.config.model import FasterRCNNSettings
from detres.detector import FasterRCNN
from detres.detector.test_time.maxout import TwoScales, nearest_scales
from detres.structures import ImageBatch
from tests.detector.test_forms import make

SIDES = (48, 96, 144, 192)
REGION_SIZE = 40.0
BOXES = torch.tensor([[[0.0, 0, 40, 30], [5, 5, 90, 80], [20, 10, 30, 60], [0, 0, 12, 12], [3, 4, 30, 90]]])


def pyramid(sizes_hw: list[tuple[int, int]], sides: tuple[int, ...] = SIDES) -> list[ImageBatch]:
    """Pictures of those shapes at each of the sizes, of their shorter side."""
    images = [torch.rand(1, 3, 6, 6) * 255 for _ in sizes_hw]
    scales = [[tuple(round(side * s / min(size)) for side in size) for size in sizes_hw] for s in sides]
    return [
        ImageBatch.from_images(
            [
                torch.nn.functional.interpolate(image, size=size, mode="bilinear")[0]
                for image, size in zip(images, sizes, strict=True)
            ]
        )
        for sizes in scales
    ]


def test_the_two_scales_nearest_in_area() -> None:
    ratios = torch.tensor([[0.5, 0.5], [1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 40, 40], [0, 0, 400, 400], [5, 5, 5, 5]])
    # areas at the scales, against 40 * 40 = 1600:
    #   25, 100, 400, 1600; 400, 1600, 6400, ...; 40000, 160000, ...; all 0
    found = nearest_scales(boxes, ratios, 40.0)
    assert found[:, 0].tolist() == [False, False, True, True]
    assert found[:, 1].tolist() == [True, True, False, False]
    assert found[:, 2].tolist() == [True, True, False, False]
    assert found.sum(0).tolist() == [2, 2, 2, 2]
    assert nearest_scales(boxes, ratios[:1], 40.0).all()
    assert nearest_scales(torch.zeros(0, 4), ratios, 40.0).shape == (4, 0)


def vectors_by_loop(model: FasterRCNN, scales: list[ImageBatch], image: int, box: Tensor) -> Tensor:
    """The maximum of the head's vectors of one region, pooled alone at its two scales."""
    frame = scales[1].sizes_hw[image]
    found = []
    for batch in scales:
        y, x = (batch.sizes_hw[image] / frame).tolist()
        scaled = box * torch.tensor([x, y, x, y])
        width, height = (scaled[2:] - scaled[:2]).tolist()
        features = {name: maps[image : image + 1] for name, maps in model.backbone(model.pixels(batch)).items()}
        levels = [features[name] for name in model.roi_heads.names]
        vector = model.roi_heads.box_head(model.roi_heads.pooler(levels, scaled[None, None]))[0]
        if model.roi_heads.global_context:
            height_width = batch.sizes_hw[image].tolist()
            whole = torch.tensor([[[0.0, 0.0, height_width[1], height_width[0]]]])
            vector = torch.cat([vector, model.roi_heads.box_head(model.roi_heads.pooler(levels, whole))[0]])
        found.append((abs(width * height - REGION_SIZE**2), vector))
    (_, one), (_, other) = sorted(found, key=lambda pair: pair[0])[:2]
    return torch.maximum(one, other)


def with_context() -> FasterRCNN:
    settings = {
        "type": "faster_rcnn",
        "backbone": {"type": "resnet", "depth": 18, "out_features": ["c3"]},
        "anchors": {"sizes": [[32.0]]},
        "roi_heads": {"global_context": True, "box_head": {"type": "fc", "channels": 16}, "class_agnostic": True},
    }
    return wiring.build_detector(FasterRCNNSettings.model_validate(settings), 3)


@pytest.mark.parametrize("form", ["fpn", "c4", "context"])
@torch.no_grad()
def test_two_scales_are_the_loop_over_regions(form: str) -> None:
    model = (with_context() if form == "context" else make(form, background="first")).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.05)
    scales, boxes = pyramid([(90, 100), (100, 80)]), torch.cat([BOXES, BOXES.flip(1)])
    scores, new = TwoScales(model, scales[1], scales, REGION_SIZE).score(boxes)
    heads = model.roi_heads
    for image in range(2):
        for region in range(5):
            box = boxes[image, region]
            logits, deltas = heads.box_predictor(vectors_by_loop(model, scales, image, box)[None])
            expected = heads.box_predictor.probabilities(logits)[0]
            torch.testing.assert_close(scores[image, region], expected, rtol=1e-4, atol=1e-5)
            decoded = heads.coder.decode(heads.box_predictor.class_deltas(deltas)[0], box[None])
            torch.testing.assert_close(new[image, region], decoded, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_one_scale_twice_is_that_scale() -> None:
    """A pyramid whose sizes are all the frame's: the maximum of a vector with itself. A cascade is scored as well."""
    settings = {
        "type": "faster_rcnn",
        "backbone": {"type": "resnet", "depth": 18, "out_features": ["c3"]},
        "anchors": {"sizes": [[32.0]]},
        "roi_heads": {"cascade": {}, "global_context": True, "box_head": {"type": "fc", "channels": 16}},
    }
    cascade = wiring.build_detector(FasterRCNNSettings.model_validate(settings), 3)
    for model in (make("fpn").eval(), cascade.eval()):
        (images,) = pyramid([(90, 100), (100, 80)], (96,))
        boxes = BOXES.repeat(2, 1, 1)
        features = model.backbone(model.pixels(images))
        expected = model.roi_heads.predict_regions(images, features, boxes)
        found = TwoScales(model, images, [images, images], REGION_SIZE).score(boxes)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_no_regions() -> None:
    scales = pyramid([(90, 100)])
    scores, boxes = TwoScales(make("fpn").eval(), scales[0], scales, REGION_SIZE).score(torch.zeros(1, 0, 4))
    assert scores.shape == (1, 0, 3) and boxes.shape == (1, 0, 3, 4)
