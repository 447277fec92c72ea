"""The second stage: what it says about given regions, and the feature of the whole image beside theirs."""

import pytest
import torch

from tests.detector.small import CONV_FC, FORMS, build, step
from tests.detector.test_forms import batch, make

GLOBAL = "model.roi_heads.global_context=true"


@pytest.mark.parametrize("overrides", [[], [GLOBAL], ["model.roi_heads.cascade={}"]])
def test_predict_regions_without_regions(overrides: list[str]) -> None:
    model = build("fpn", *overrides).eval()
    images, _ = batch(1, 1)
    features = model.backbone(model.pixels(images))
    scores, boxes = model.roi_heads.predict_regions(images, features, torch.zeros(2, 0, 4))
    assert scores.shape == (2, 0, 3) and boxes.shape == (2, 0, 3, 4)


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
            probabilities = logits.softmax(1)[0, first : first + 3]
            torch.testing.assert_close(scores[i, r], probabilities, rtol=1e-4, atol=1e-5)
            for label in range(decoded.shape[2]):
                row = label if class_agnostic else label + first
                expected = model.roi_heads.coder.decode(deltas[0, row], boxes[i, r])
                torch.testing.assert_close(decoded[i, r, label], expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("form", "head"), [("fpn", []), ("fpn", [CONV_FC]), ("c4", []), ("dc5", [])])
def test_global_context_is_the_whole_image_through_the_same_layers(form: str, head: list[str]) -> None:
    """Region by region: its feature, then that of its image's box without the padding, before the two layers."""
    model = build(form, GLOBAL, *head).eval()
    heads = model.roi_heads
    assert heads.box_predictor.cls_score.in_features == 2 * heads.box_head.out_channels
    images, _ = batch(0, 0)
    features = model.backbone(model.pixels(images))
    boxes = torch.tensor([[[0.0, 0, 40, 30], [5, 5, 90, 80]], [[20.0, 10, 30, 60], [60, 0, 90, 40]]])
    logits, deltas = heads.regions(images, features, boxes)
    for i, (height, width) in enumerate([(96.0, 96.0), (89.0, 96.0)]):
        maps = [features[name][i : i + 1] for name in heads.names]
        whole = heads.box_head(heads.pooler(maps, torch.tensor([[[0.0, 0.0, width, height]]])))
        for r in range(2):
            own = heads.box_head(heads.pooler(maps, boxes[i : i + 1, r : r + 1]))
            expected = heads.box_predictor(torch.cat([own, whole], dim=1))
            torch.testing.assert_close(logits[2 * i + r], expected[0][0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(deltas[2 * i + r], expected[1][0], rtol=1e-4, atol=1e-4)
    scores, decoded = heads.predict_regions(images, features, boxes)
    torch.testing.assert_close(scores.flatten(0, 1), logits.softmax(1)[:, :-1])
    torch.testing.assert_close(decoded.flatten(0, 1), heads.coder.decode(deltas, boxes.flatten(0, 1)[:, None]))


@pytest.mark.parametrize("global_context", [False, True])
def test_a_region_learns_from_the_rest_of_its_image_and_from_no_other(global_context: bool) -> None:
    model = build("dc5", f"model.roi_heads.global_context={str(global_context).lower()}").eval()
    images, _ = batch(0, 0)
    feature = torch.randn(2, 512, 6, 6, requires_grad=True)
    corner = torch.tensor([[[0.0, 0, 20, 20]], [[0.0, 0, 20, 20]]])
    logits, _ = model.roi_heads.regions(images, {"c5": feature}, corner)
    logits[0].sum().backward()
    assert feature.grad is not None
    assert bool(feature.grad[0, :, :1, :1].any()) and not feature.grad[1].any()
    assert bool(feature.grad[0, :, 4:, 4:].any()) == global_context


@pytest.mark.parametrize("form", FORMS)
def test_global_context_trains_end_to_end(form: str) -> None:
    model = build(form, GLOBAL)
    losses = step(model, *batch(2, 0))
    assert set(losses) == {"loss_rpn_objectness", "loss_rpn_box", "loss_classifier", "loss_box"}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    weight = model.roi_heads.box_predictor.cls_score.weight
    assert bool(weight.grad[:, weight.shape[1] // 2 :].any())
    assert len(model.eval().predict(batch(1, 1)[0])) == 2


def test_global_context_adds_no_tensor() -> None:
    assert build("fpn").state_dict().keys() == build("fpn", GLOBAL).state_dict().keys()
