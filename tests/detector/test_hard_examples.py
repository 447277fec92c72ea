"""Online hard example mining against loops."""

import pytest
import torch
from torch import Tensor, nn

from detres.detector.box_head import BoxPredictor
from detres.detector.hard_examples import hardest, only_looking
from detres.detector.roi_heads import RoIHeads
from detres.layers.roi_pool import RoIPooler
from detres.structures import GroundTruth, ImageBatch
from detres.structures.boxes import pairwise_iou
from tests.detector.small import CONV_FC, FORMS, build, proposals_of, step
from tests.detector.test_forms import batch

OHEM = "model.roi_heads.sampling.ohem=true"


def by_hand(losses: Tensor, boxes: Tensor, labels: Tensor, batch_size: int, nms_iou: float) -> list[int]:
    """One image: go through the boxes from the largest loss on, passing over those too close to one taken."""
    taken: list[int] = []
    for i in sorted(range(len(losses)), key=lambda i: -float(losses[i])):
        near = any(float(pairwise_iou(boxes[i : i + 1], boxes[j : j + 1])) > nms_iou for j in taken)
        if int(labels[i]) != -1 and not near and len(taken) < batch_size:
            taken.append(i)
    return taken


def test_nothing_to_choose_from() -> None:
    none = hardest(torch.zeros(2, 0), torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), 8)
    assert none.index.shape == none.valid.shape == (2, 0)
    ignored = hardest(torch.ones(1, 3), torch.rand(1, 3, 4), torch.full((1, 3), -1), 8)
    assert ignored.index.shape == (1, 3) and not ignored.valid.any() and not ignored.positive.any()


@pytest.mark.parametrize("nms_iou", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("batch_size", [5, 100])
def test_the_hardest_of_a_batch(nms_iou: float, batch_size: int) -> None:
    corners = torch.rand(3, 40, 2) * 30
    boxes = torch.cat([corners, corners + 10 + 10 * torch.rand(3, 40, 2)], dim=2)
    losses, labels = torch.rand(3, 40), torch.randint(-1, 2, (3, 40))
    chosen = hardest(losses, boxes, labels, batch_size, nms_iou)
    assert chosen.index.shape == (3, min(batch_size, 40))
    for i in range(3):
        expected = by_hand(losses[i], boxes[i], labels[i], batch_size, nms_iou)
        assert chosen.index[i][chosen.valid[i]].tolist() == expected
        assert chosen.positive[i][chosen.valid[i]].tolist() == [int(labels[i, j]) == 1 for j in expected]


def test_regions_are_chosen_by_both_their_losses() -> None:
    """Candidate by candidate: cross-entropy, and for objects the L1 distance of the deltas, as they stand."""
    heads = RoIHeads(["c4"], RoIPooler([16]), nn.Flatten(), BoxPredictor(49, 2), batch_size=3, ohem=True)
    nn.init.normal_(heads.box_predictor.cls_score.weight)
    images = ImageBatch.from_images([torch.zeros(3, 64, 64)])
    targets = GroundTruth.from_lists([torch.tensor([[5.0, 5, 30, 40]])], [torch.tensor([1])])
    boxes = torch.tensor([[[5.0, 5, 30, 38], [40, 40, 60, 60], [0, 40, 20, 60], [34, 0, 60, 20], [4, 6, 28, 40]]])
    features = {"c4": torch.randn(1, 1, 4, 4)}
    got = heads.sample_regions(images, features, proposals_of(boxes), targets)
    everything = torch.cat([boxes[0], targets.boxes_xyxy[0]])
    losses, labels = [], []
    for box in everything:
        label = 1 if float(pairwise_iou(box[None], targets.boxes_xyxy[0])) >= 0.5 else 2
        logits, deltas = heads.regions(images, features, box[None, None])
        loss = float(-logits.log_softmax(1)[0, label])
        if label == 1:
            loss += float((deltas[0, 1] - heads.coder.encode(targets.boxes_xyxy[0, 0], box)).abs().sum())
        losses.append(loss)
        labels.append(label)
    taken = by_hand(torch.tensor(losses), everything, torch.tensor(labels), 3, 0.7)
    assert got.boxes_xyxy[0].tolist() == everything[taken].tolist()
    assert got.labels[0].tolist() == [labels[i] for i in taken] and got.valid.all()


@pytest.mark.parametrize("form", FORMS)
def test_it_trains(form: str) -> None:
    model = build(form, OHEM)
    losses = step(model, *batch(2, 0))
    assert losses["loss_classifier"] > 0 and all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_no_objects_in_the_whole_batch() -> None:
    losses = step(build("fpn", OHEM), *batch(0, 0))
    assert losses["loss_box"] == 0 and losses["loss_classifier"] > 0


def test_the_chosen_are_harder_than_a_random_sample() -> None:
    images, targets = batch(3, 2)
    few = "model.roi_heads.sampling.batch_size=3"
    random, mined = build("fpn", few).eval(), build("fpn", few, OHEM).eval()
    nn.init.normal_(random.roi_heads.box_predictor.cls_score.weight)
    mined.load_state_dict(random.state_dict())
    with torch.no_grad():
        assert mined(images, targets)["loss_classifier"] > random(images, targets)["loss_classifier"]


def test_looking_changes_nothing() -> None:
    """Norms in the head see each step once, with the chosen regions; what was set to evaluate stays so."""
    model = build("fpn", CONV_FC, OHEM)
    step(model, *batch(2, 0))
    norm = next(m for m in model.roi_heads.modules() if isinstance(m, nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == 1
    layers = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5).eval())
    with only_looking(layers):
        assert not layers[0].training and not torch.is_grad_enabled()
    assert layers.training and layers[0].training and not layers[1].training and torch.is_grad_enabled()
