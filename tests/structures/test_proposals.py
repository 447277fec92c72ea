"""Proposals of images that have unequally many."""

import torch

from detres.structures.proposals import Proposals


def test_places_that_no_image_fills_are_left_out() -> None:
    valid = torch.tensor([[True, False, False, False], [True, True, True, False]])
    boxes = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    trimmed = Proposals(boxes, boxes[..., 0], valid).trimmed()
    assert torch.equal(trimmed.boxes_xyxy, boxes[:, :3]) and torch.equal(trimmed.logits, boxes[:, :3, 0])
    assert torch.equal(trimmed.valid, valid[:, :3])
    none = Proposals(boxes, boxes[..., 0], torch.zeros_like(valid)).trimmed()
    assert none.boxes_xyxy.shape == (2, 1, 4) and not none.valid.any()
    assert len(Proposals(boxes[:0], boxes[:0, :, 0], valid[:0]).trimmed()) == 0
