"""Cascade R-CNN's stages against loops over regions."""

import math

import pytest
import torch
from torch import Tensor, nn

from detres.detector.box_head import BoxPredictor
from detres.detector.cascade import CascadeRoIHeads, move_boxes
from detres.detector.roi_heads import RoIHeads
from detres.layers.roi_pool import RoIPooler
from detres.structures import GroundTruth, ImageBatch
from detres.structures.boxes import pairwise_ioa, pairwise_iou
from tests.detector.small import FORMS, build, proposals_of, step
from tests.detector.test_forms import batch

CASCADE, AGNOSTIC = "model.roi_heads.cascade={}", "model.roi_heads.class_agnostic=true"
GLOBAL, OHEM = "model.roi_heads.global_context=true", "model.roi_heads.sampling.ohem=true"
NAMES = [f"loss_{kind}_{number}" for number in (1, 2, 3) for kind in ("classifier", "box")]
IOUS, LOSS_WEIGHTS = (0.5, 0.6, 0.7), (1.0, 0.5, 0.25)
CODER_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


def test_no_objects_in_the_whole_batch() -> None:
    model = build("fpn", CASCADE)
    images, targets = batch(0, 0)
    losses = step(model, images, targets)
    assert all(losses[f"loss_box_{number}"] == 0 and losses[f"loss_classifier_{number}"] > 0 for number in (1, 2, 3))
    model.eval().roi_heads.score_threshold = 0.999
    assert [len(found) for found in model.predict(images)] == [0, 0]


@pytest.mark.parametrize(
    ("form", "overrides"),
    [*((form, []) for form in FORMS), ("fpn", [AGNOSTIC]), ("fpn", [AGNOSTIC, GLOBAL, OHEM]), ("c4", [GLOBAL, OHEM])],
)
def test_every_stage_trains(form: str, overrides: list[str]) -> None:
    model = build(form, CASCADE, *overrides)
    images, targets = batch(2, 0)
    losses = step(model, images, targets)
    assert list(losses) == ["loss_rpn_objectness", "loss_rpn_box", *NAMES]
    assert all(torch.isfinite(loss) and loss > 0 for name, loss in losses.items() if "box_" not in name)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    for found, (height, width) in zip(model.eval().predict(images), images.sizes_hw.tolist(), strict=True):
        assert len(found) > 0 and (found.boxes_xyxy[:, 2:] <= torch.tensor([width, height])).all()


def fixed(logits: list[float], deltas: list[float], heads: type[RoIHeads] = RoIHeads, **settings: object) -> RoIHeads:
    """A stage of two classes that says the same of every region."""
    predictor = BoxPredictor(49, 2, class_agnostic=len(deltas) == 4)
    with torch.no_grad():
        for layer, bias in ((predictor.cls_score, logits), (predictor.bbox_pred, deltas)):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(bias))
    return heads(["c4"], RoIPooler([16]), nn.Flatten(), predictor, **settings)  # type: ignore[arg-type]


LOGITS = ([0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.0, 2.0, 1.0])
SHIFTS = ([1.0, 0.0, 0.0, 0.5], [-2.0, 1.0, 0.3, 0.0], [0.0, -1.0, 0.0, 0.2])


def fixed_cascade() -> CascadeRoIHeads:
    stages = [
        {"positive_iou": iou, "negative_iou": iou, "box_coder_weights": weights, "batch_size": 64}
        | {"positive_fraction": 1.0, "score_threshold": 0.0}
        for iou, weights in zip(IOUS, CODER_WEIGHTS, strict=True)
    ]
    earlier = [fixed(LOGITS[k], SHIFTS[k], **stages[k]) for k in (0, 1)]
    last = {**stages[2], "earlier_stages": earlier, "loss_weights": LOSS_WEIGHTS}
    heads = fixed(LOGITS[2], SHIFTS[2], CascadeRoIHeads, **last)
    assert isinstance(heads, CascadeRoIHeads)
    return heads


def moved(box: list[float], deltas: list[float], weights: tuple[float, ...], size: int) -> list[float]:
    """R-CNN's formula by hand, and clipping."""
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas, weights, strict=True))
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    width, height = width * math.exp(dw), height * math.exp(dh)
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return [min(max(corner, 0.0), float(size)) for corner in corners]


def offsets(box: list[float], to: list[float], weights: tuple[float, ...]) -> list[float]:
    """R-CNN's targets by hand."""
    width, height = box[2] - box[0], box[3] - box[1]
    shift = [((to[i] + to[i + 2]) / 2 - (box[i] + box[i + 2]) / 2) / side for i, side in ((0, width), (1, height))]
    scale = [math.log((to[2] - to[0]) / width), math.log((to[3] - to[1]) / height)]
    return [value * weight for value, weight in zip(shift + scale, weights, strict=True)]


def test_the_losses_of_all_stages_region_by_region() -> None:
    heads = fixed_cascade()
    size = 64
    objects, crowd = torch.tensor([[5.0, 5, 30, 40], [35, 30, 60, 62]]), torch.tensor([[0.0, 44, 30, 64]])
    regions = [[5.0, 7, 30, 42], [3, 4, 31, 45], [38, 28, 64, 60], [30, 30, 62, 64], [36, 2, 60, 20], [2, 46, 20, 62]]
    targets = GroundTruth.from_lists(
        [torch.cat([objects, crowd])], [torch.tensor([1, 0, 0])], [torch.tensor([False, False, True])]
    )
    images = ImageBatch.from_images([torch.zeros(3, size, size)])
    got = heads.losses(images, {"c4": torch.randn(1, 1, 4, 4)}, proposals_of(torch.tensor([regions])), targets)
    torch.stack(list(got.values())).sum().backward()
    boxes = regions + objects.tolist()  # the ground truth is among the candidates of the first stage
    left = [i for i, box in enumerate(boxes) if float(pairwise_ioa(torch.tensor([box]), crowd)) <= 0.5]
    assert left == [0, 1, 2, 3, 4, 6, 7]
    positives = []
    for k in range(3):
        log_sum = math.log(sum(math.exp(logit) for logit in LOGITS[k]))
        classification = box_loss = 0.0
        # Of the predictor's biases: each stage learns from its own losses alone, not through the boxes it hands on.
        logit_gradient, shift_gradient = [0.0] * 3, [0.0] * 4
        positives.append(0)
        for i in left:
            iou = pairwise_iou(torch.tensor([boxes[i]]), objects)[0]
            match = int(iou.argmax())
            label = [1, 0][match] if float(iou[match]) >= IOUS[k] else 2
            classification += log_sum - LOGITS[k][label]
            for row, logit in enumerate(LOGITS[k]):
                logit_gradient[row] += math.exp(logit - log_sum) - (row == label)
            if label < 2:
                positives[k] += 1
                wanted = offsets(boxes[i], objects[match].tolist(), CODER_WEIGHTS[k])
                box_loss += sum(abs(a - b) for a, b in zip(SHIFTS[k], wanted, strict=True))
                for side, (a, b) in enumerate(zip(SHIFTS[k], wanted, strict=True)):
                    shift_gradient[side] += (a > b) - (a < b)
        weight = LOSS_WEIGHTS[k] / len(left)
        assert got[f"loss_classifier_{k + 1}"].item() == pytest.approx(weight * classification, rel=1e-4)
        assert got[f"loss_box_{k + 1}"].item() == pytest.approx(weight * box_loss, rel=1e-3)
        predictor = heads.stages[k].box_predictor
        for layer, gradient in ((predictor.cls_score, logit_gradient), (predictor.bbox_pred, shift_gradient)):
            assert layer.bias.grad.tolist() == pytest.approx([weight * value for value in gradient], rel=1e-3, abs=1e-6)
        boxes = [moved(box, SHIFTS[k], CODER_WEIGHTS[k], size) for box in boxes]
    assert positives[0] > positives[2] > 0  # the thresholds tell


@torch.no_grad()
@pytest.mark.parametrize("overrides", [[AGNOSTIC], []])
def test_predictions_region_by_region(overrides: list[str]) -> None:
    """Two stages move a box, then all three classifiers judge it there, and the last one regresses it."""
    model = build("fpn", CASCADE, *overrides).eval()
    heads = model.roi_heads
    assert isinstance(heads, CascadeRoIHeads)
    stages: list[RoIHeads] = [*heads.earlier_stages, heads]  # type: ignore[list-item]
    for stage in stages:
        nn.init.normal_(stage.box_predictor.cls_score.weight, std=0.3)
        nn.init.normal_(stage.box_predictor.bbox_pred.weight, std=0.3)
    images, _ = batch(0, 0)
    features = model.backbone(model.pixels(images))
    boxes = torch.tensor([[[0.0, 0, 40, 30], [5, 5, 90, 80]], [[20.0, 10, 30, 60], [60, 0, 90, 40]]])
    scores, decoded = heads.predict_regions(images, features, boxes)
    assert scores.shape == (2, 2, 3) and decoded.shape == (2, 2, 1 if overrides else 3, 4)
    for i, (height, width) in enumerate([(96, 96), (89, 96)]):
        maps = [features[name][i : i + 1] for name in heads.names]

        def judged(stage: RoIHeads, box: Tensor, maps: list[Tensor] = maps) -> tuple[Tensor, Tensor]:
            logits, deltas = stage.box_predictor(stage.box_head(stage.pooler(maps, box[None, None])))
            return logits.softmax(1)[0, :3], deltas[0]

        for r in range(2):
            box = boxes[i, r]
            for k in (0, 1):
                own, deltas = judged(stages[k], box)
                box = stages[k].coder.decode(deltas[0 if overrides else int(own.argmax())], box)
                box = torch.stack([box[0].clamp(0, width), box[1].clamp(0, height), box[2].clamp(0, width),
                                   box[3].clamp(0, height)])  # fmt: skip
            said = [judged(stage, box) for stage in stages]
            mean = sum(own for own, _ in said) / 3
            torch.testing.assert_close(scores[i, r], mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(decoded[i, r], heads.coder.decode(said[2][1], box), rtol=1e-3, atol=1e-2)
    found = heads.detect(images, features, proposals_of(boxes))
    assert float(found[0].scores[0]) == pytest.approx(float(scores[0].max()), rel=1e-5)


def test_stages_have_their_own_heads_beside_the_names_of_a_plain_one() -> None:
    plain, cascade = build("fpn").state_dict(), build("fpn", CASCADE).state_dict()
    own = [key for key in plain if key.startswith("roi_heads.")]
    more = {key.replace("roi_heads.", f"roi_heads.earlier_stages.{i}.") for key in own for i in (0, 1)}
    assert cascade.keys() - plain.keys() == more and plain.keys() <= cascade.keys()
    stages = build("c4", CASCADE).roi_heads.stages
    assert [stage.positive_iou for stage in stages] == list(IOUS)
    assert [stage.coder.weights for stage in stages] == list(CODER_WEIGHTS)


def test_regions_pushed_out_of_the_image_teach_the_later_stages_nothing() -> None:
    heads = fixed_cascade()
    with torch.no_grad():
        heads.stages[0].box_predictor.bbox_pred.bias.copy_(torch.tensor([100.0, 0, 0, 0]))  # ten widths to the right
    targets = GroundTruth.from_lists([torch.tensor([[5.0, 5, 30, 40]])], [torch.tensor([1])])
    images, regions = ImageBatch.from_images([torch.zeros(3, 64, 64)]), torch.tensor([[[5.0, 7, 30, 42]]])
    losses = heads.losses(images, {"c4": torch.randn(1, 1, 4, 4)}, proposals_of(regions), targets)
    assert losses["loss_classifier_1"] > 0 and losses["loss_box_1"] > 0
    assert [losses[name].item() for name in NAMES[2:]] == [0.0] * 4


def test_a_box_without_a_finite_place_stays() -> None:
    stage = fixed([0.0, 1.0, 0.5], [math.nan, 0.0, 0.0, 0.0])
    images = ImageBatch.from_images([torch.zeros(3, 64, 64)])
    boxes = torch.tensor([[[5.0, 5, 30, 40], [1, 1, 9, 9]]])
    logits = torch.zeros(2, 3)
    deltas = torch.tensor([[[math.nan, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]])
    assert torch.equal(move_boxes(stage, images, boxes, logits, deltas), boxes)


def test_as_many_weights_as_stages() -> None:
    with pytest.raises(ValueError, match="loss_weights: got 1, expected one for each of the 2 stages"):
        earlier = [fixed([0.0, 0.0, 0.0], [0.0] * 4)]
        fixed([0.0, 0.0, 0.0], [0.0] * 4, CascadeRoIHeads, earlier_stages=earlier, loss_weights=[1.0])
