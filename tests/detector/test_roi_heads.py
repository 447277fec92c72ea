"""The second stage: what it says about given regions."""

import pytest
import torch

from tests.detector.test_forms import batch, make


@pytest.mark.parametrize("background", ["first", "last"])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_predict_regions_is_the_head_region_by_region(background: str, class_agnostic: bool) -> None:
    model = make(background=background, class_agnostic=class_agnostic).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.1)
    images, _ = batch(1, 1)
    features = model.backbone(model.pixels(images))
    boxes = torch.tensor([[[0.0, 0, 40, 30], [5, 5, 90, 80], [20, 10, 30, 60]]]).repeat(2, 1, 1)
    scores, decoded = model.roi_heads.predict_regions(images, features, boxes)
    assert scores.shape == (2, 3, 3) and decoded.shape == (2, 3, 1 if class_agnostic else 3, 4)
    first = int(background == "first")
    for i in range(2):
        for r in range(3):
            own = {name: maps[i : i + 1] for name, maps in features.items()}
            logits, deltas = model.roi_heads.regions(images, own, boxes[i : i + 1, r : r + 1])
            torch.testing.assert_close(scores[i, r], logits.softmax(1)[0, first : first + 3], rtol=1e-4, atol=1e-5)
            for label in range(decoded.shape[2]):
                row = label if class_agnostic else label + first
                expected = model.roi_heads.coder.decode(deltas[0, row], boxes[i, r])
                torch.testing.assert_close(decoded[i, r, label], expected, rtol=1e-4, atol=1e-3)


def test_predict_regions_without_regions() -> None:
    model = make().eval()
    images, _ = batch(1, 1)
    features = model.backbone(model.pixels(images))
    scores, boxes = model.roi_heads.predict_regions(images, features, torch.zeros(2, 0, 4))
    assert scores.shape == (2, 0, 3) and boxes.shape == (2, 0, 3, 4)
