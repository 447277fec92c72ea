"""The RPN's losses, computed at a sample of the anchors, against the same from the whole maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detres.detector.target_assignment import assign, sample
from detres.structures import GroundTruth, ImageBatch
from tests.detector.small import build


@pytest.mark.parametrize(("form", "convs"), [("fpn", 1), ("fpn", 2), ("c4", 1)])
def test_losses_and_gradients_are_those_of_the_dense_head(form: str, convs: int) -> None:
    torch.manual_seed(0)
    model = build(form, f"model.rpn.convs={convs}").train()
    rpn = model.rpn
    images = ImageBatch.from_images([torch.rand(3, 96, 64) * 255, torch.rand(3, 64, 96) * 255])
    targets = GroundTruth.from_lists(
        [torch.tensor([[5.0, 8, 60, 60]]), torch.tensor([[0.0, 0, 30, 30], [30, 20, 90, 60]])],
        [torch.tensor([0]), torch.tensor([1, 2])],
    )
    features = {name: f.detach().requires_grad_() for name, f in model.backbone(model.pixels(images)).items()}
    maps = [features[name] for name in rpn.names]
    parameters = [*rpn.head.parameters(), *maps]
    _, losses = rpn(images, features, targets)
    expected = _dense_losses(rpn, maps, images, targets)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-5, atol=1e-7)
    found, wanted = (torch.autograd.grad(sum(each.values()), parameters) for each in (losses, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def _dense_losses(rpn, maps: list[Tensor], images: ImageBatch, targets: GroundTruth) -> dict[str, Tensor]:
    """Outputs for all anchors first, then the sample taken out of them."""
    logits, deltas = (torch.cat(each, 1) for each in rpn.head(maps))
    sizes, padded = [tuple(m.shape[-2:]) for m in maps], tuple(images.pixels.shape[-2:])
    anchors = torch.cat(rpn.anchors(sizes, rpn.strides, padded))
    assignment = assign(anchors, targets, rpn.positive_iou, rpn.negative_iou, low_quality=True)
    chosen = sample(assignment.labels, images.sampling_seeds ^ 0x52504E, rpn.batch_size, rpn.positive_fraction)
    index = chosen.index
    boxes = targets.boxes_xyxy.gather(1, assignment.matches.gather(1, index)[:, :, None].expand(-1, -1, 4))
    objectness = F.binary_cross_entropy_with_logits(
        logits.gather(1, index), chosen.positive.float(), weight=chosen.valid.float(), reduction="sum"
    )
    chosen_deltas = deltas.gather(1, index[:, :, None].expand(-1, -1, 4))
    box = rpn.box_loss(chosen_deltas, anchors[index], boxes, chosen.positive.float())
    count = rpn.batch_size * len(images)
    return {"loss_rpn_objectness": objectness / count, "loss_rpn_box": rpn.box_loss_weight * box / count}
