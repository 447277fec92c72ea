"""The whole detector against torchvision's, stage by stage, with the same random weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN

from detres.detector import FasterRCNN
from detres.structures import GroundTruth
from tests.detector.torchvision_twin import images_and_batch, twins

SIZES = {"one": [(128, 170)], "unequal": [(128, 192), (150, 128)]}


def close(got: Tensor, expected: Tensor, relative: float = 1e-4) -> None:
    """Largest difference at most `relative` times the largest magnitude."""
    assert got.shape == expected.shape
    scale = float(expected.abs().max().clamp(min=1e-6)) if expected.numel() else 1.0
    assert float((got - expected).abs().max() if got.numel() else 0.0) <= relative * scale


def paired(got: Tensor, expected: Tensor) -> Tensor:
    """The row of `got` for each expected box: neighbours whose scores differ by rounding may change places."""
    assert len(got) == len(expected)
    distance = torch.cdist(expected.double(), got.double())
    row = torch.empty(len(got), dtype=torch.int64)
    for i in range(len(expected)):
        row[i] = distance[i].argmin()
        distance[:, row[i]] = torch.inf  # equal boxes of two levels are paired one to one
    close(got[row], expected)
    return row


class Tap:
    """What passed through modules of a network, by name."""

    def __init__(self, **modules: nn.Module) -> None:
        self.seen: dict[str, Any] = {}
        for name, module in modules.items():
            module.register_forward_hook(lambda _m, _i, out, name=name: self.seen.__setitem__(name, out))


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def pair(request: pytest.FixtureRequest) -> tuple[TorchvisionFasterRCNN, FasterRCNN]:
    return twins(request.param, short_side=128)


@pytest.mark.parametrize("case", SIZES)
def test_inference(pair: tuple[TorchvisionFasterRCNN, FasterRCNN], case: str) -> None:
    theirs, ours = pair
    pictures, batch = images_and_batch(SIZES[case])
    their_tap = Tap(
        body=theirs.backbone.body, fpn=theirs.backbone, rpn=theirs.rpn.head, heads=theirs.roi_heads.box_predictor
    )
    our_tap = Tap(body=ours.backbone.body, fpn=ours.backbone, rpn=ours.rpn.head, heads=ours.roi_heads.box_predictor)
    proposals: dict[str, Any] = {}
    theirs.rpn.register_forward_hook(lambda _m, _i, out: proposals.__setitem__("theirs", out[0]))
    ours.rpn.register_forward_hook(lambda _m, _i, out: proposals.__setitem__("ours", out[0].trimmed()))
    with torch.no_grad():
        expected = theirs(pictures)
    got = batch.to_original(ours.predict(batch))

    for stage in ("body", "fpn"):
        for mine, other in zip(our_tap.seen[stage].values(), their_tap.seen[stage].values(), strict=True):
            close(mine, other)
    for kind in (0, 1):
        for mine, other in zip(our_tap.seen["rpn"][kind], their_tap.seen["rpn"][kind], strict=True):
            n = len(other)
            columns = 4 if kind else 1
            rows = other.reshape(n, -1, columns, *other.shape[-2:]).permute(0, 3, 4, 1, 2).reshape(n, -1, columns)
            close(mine.reshape(n, -1, columns), rows)
    ours_valid, order = proposals["ours"].valid, []
    for mine, valid, other in zip(proposals["ours"].boxes_xyxy, ours_valid, proposals["theirs"], strict=True):
        order.append(paired(mine[valid], other) + sum(len(o) for o in order))
    row = torch.cat(order)
    close(our_tap.seen["heads"][0][ours_valid.flatten()][row], their_tap.seen["heads"][0])
    close(our_tap.seen["heads"][1].flatten(1)[ours_valid.flatten()][row], their_tap.seen["heads"][1])
    for mine, other in zip(got, expected, strict=True):
        assert len(mine) > 20
        rank = paired(mine.boxes_xyxy, other["boxes"])
        close(mine.scores[rank], other["scores"])
        assert torch.equal(mine.labels[rank], other["labels"] - 1)


@pytest.mark.parametrize("objects", ["all", "second image empty"])
def test_training_losses(pair: tuple[TorchvisionFasterRCNN, FasterRCNN], objects: str) -> None:
    theirs, ours = pair
    pictures, batch = images_and_batch(SIZES["unequal"])
    boxes = [
        torch.tensor([[10.0, 20.0, 90.0, 120.0], [80.0, 30.0, 160.0, 120.0], [5.0, 5.0, 30.0, 25.0]]),
        torch.tensor([[40.0, 40.0, 120.0, 140.0]])[: 0 if objects != "all" else 1],
    ]
    labels = [torch.tensor([0, 3, 4]), torch.tensor([2])[: len(boxes[1])]]
    targets = [{"boxes": b, "labels": label + 1} for b, label in zip(boxes, labels, strict=True)]
    names = {
        "loss_objectness": "loss_rpn_objectness",
        "loss_rpn_box_reg": "loss_rpn_box",
        "loss_classifier": "loss_classifier",
        "loss_box_reg": "loss_box",
    }
    set_training(theirs), set_training(ours)
    with torch.no_grad():
        expected = theirs(pictures, targets)
        got = ours(batch, GroundTruth.from_lists(boxes, labels))
    theirs.eval(), ours.eval()
    for theirs_name, ours_name in names.items():
        assert float(expected[theirs_name]) > 0
        assert float(got[ours_name]) == pytest.approx(float(expected[theirs_name]), rel=1e-4), ours_name


def set_training(model: nn.Module) -> None:
    """Training mode, but batch norm with its stored statistics, so that both sides see the same."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
