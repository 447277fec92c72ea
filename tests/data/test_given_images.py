"""Images given one by one: what benchmarks load."""

from pathlib import Path

import numpy as np
import pytest
import torch

from detres.data.coco import CocoDataset
from detres.data.given_images import GivenImages, load_given_images
from detres.structures import GroundTruth


def test_nothing_and_unequal_lists() -> None:
    assert len(GivenImages([], [], [])) == 0 and list(load_given_images([], [], [], [])) == []
    with pytest.raises(ValueError, match="got 1 files, 0 arrays of boxes and 0 of labels"):
        GivenImages(["a.jpg"], [], [])


@pytest.mark.parametrize("workers", [0, 1])
def test_batches(coco: CocoDataset, coco_folder: Path, workers: int) -> None:
    files = [coco_folder / "1.png", coco_folder / "3.png"]
    boxes = [np.array([[1, 2, 30, 20]]), np.zeros((0, 4))]
    steps = [{"type": "resize_shortest", "short": [80]}, {"type": "horizontal_flip", "p": 1.0}]
    loader = load_given_images(files, boxes, [np.array([1]), np.zeros(0)], steps, batch_size=2, workers=workers)
    (batch,) = loader
    assert batch.images.pixels.shape == (2, 3, 96, 128) and batch.images.pixels.dtype == torch.uint8
    assert batch.images.pixels.is_contiguous(memory_format=torch.channels_last), "one copy, as the images lay"
    assert batch.images.original_sizes_hw.tolist() == [[40, 60], [50, 50]]
    assert isinstance(batch.targets, GroundTruth) and batch.targets.boxes_xyxy[0].tolist() == [[60, 4, 118, 40]]
