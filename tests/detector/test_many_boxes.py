"""Ten thousand objects in one image: a training step in bounded memory."""

import pytest
import torch

from detres.detector.target_assignment import MAX_IOU_ELEMENTS
from detres.engine.memory import TensorCounter
from detres.structures import GroundTruth, ImageBatch
from tests.detector.small import build, step

COUNT = 10_000


@pytest.mark.slow
def test_ten_thousand_objects() -> None:
    model = build("fpn")
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(COUNT, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 2 + torch.rand(COUNT, 2, generator=generator) * 20], dim=1)
    images = ImageBatch.from_images([torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)])
    targets = GroundTruth.from_lists([boxes], [torch.arange(COUNT) % 3], [torch.arange(COUNT) % 1000 == 0])
    with TensorCounter() as counter:
        counter.start_peak()
        losses = step(model, images, targets)
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    pairs = COUNT * (COUNT + 12)  # with the objects themselves among the proposals: 6 times the bound
    assert pairs > 5 * MAX_IOU_ELEMENTS
    assert counter.peak < 10 * 4 * MAX_IOU_ELEMENTS < 2 * 4 * pairs, f"{counter.peak / 2**20:.0f} MiB"
