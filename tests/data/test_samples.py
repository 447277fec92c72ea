"""Samples and batches: keyed randomness, ground truth, and what happens to unreadable images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detres.data.coco import CocoDataset
from detres.data.image_io import ImageError, read_image
from detres.data.samples import SampleKey, TransformedClassificationDataset, TransformedDetectionDataset
from detres.data.transforms import DetectionTransforms
from detres.structures import GroundTruth
from detres.structures.random import derive_seed

STEPS: list[dict[str, Any]] = [{"type": "resize_shortest", "short": [32, 48, 64]}, {"type": "horizontal_flip"}]


def _samples(dataset: CocoDataset, **options: Any) -> TransformedDetectionDataset:
    return TransformedDetectionDataset(dataset, DetectionTransforms(STEPS), 3, **options)


class _Labelled:
    """A classification data set over the images of a detection data set."""

    class_names = ("even", "odd")

    def __init__(self, dataset: CocoDataset) -> None:
        self.file, self.image_id, self._count = dataset.file, dataset.image_id, len(dataset)

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> np.ndarray:
        return read_image(self.file(index))

    def label(self, index: int) -> int:
        return index % 2


def test_batch_of_an_image_without_objects(coco: CocoDataset) -> None:
    samples = TransformedDetectionDataset(coco, DetectionTransforms([]))
    batch = samples.collate([samples[SampleKey(6, 0, 0)]], 1)
    assert isinstance(batch.targets, GroundTruth) and batch.targets.boxes_xyxy.shape == (1, 0, 4)
    assert batch.images.pixels.shape == (1, 3, 40, 40) and batch.image_ids == [7]


def test_batch(coco: CocoDataset) -> None:
    samples = TransformedDetectionDataset(coco, DetectionTransforms([{"type": "resize", "height": 80, "width": 60}]), 3)
    batch = samples.collate([samples[SampleKey(2, 1, 5)], samples[SampleKey(0, 1, 6)]], 32)
    assert batch.images.pixels.shape == (2, 3, 96, 64) and batch.images.pixels.dtype == torch.uint8
    assert batch.images.original_sizes_hw.tolist() == [[50, 50], [40, 60]]
    assert batch.images.sampling_seeds.tolist() == [derive_seed(3, 1, 5), derive_seed(3, 1, 6)]
    assert batch.image_ids == [3, 1] and [Path(file).name for file in batch.files] == ["3.png", "1.png"]
    targets = batch.targets
    assert isinstance(targets, GroundTruth)
    assert targets.valid.tolist() == [[True, True, False], [True, False, False]]
    assert targets.ignore.tolist() == [[False, False, True], [False, False, False]]
    torch.testing.assert_close(targets.boxes_xyxy[1, 0], torch.tensor([2.0, 6.0, 14.0, 26.0]))
    assert batch.skipped == () and batch.num_dropped_boxes == 0


def test_pixels_arrive_unchanged(coco: CocoDataset) -> None:
    from detres.data.image_io import read_image

    samples = TransformedDetectionDataset(coco, DetectionTransforms([]))
    batch = samples.collate([samples[SampleKey(0, 0, 0)], samples[SampleKey(1, 0, 1)]], 0)
    assert batch.images.pixels.shape == (2, 3, 60, 60)
    assert (batch.images.pixels[0, :, :40].permute(1, 2, 0).numpy() == read_image(coco.file(0))).all()
    assert (batch.images.pixels[0, :, 40:] == 0).all()


def test_the_key_decides_alone(coco: CocoDataset) -> None:
    first, again = _samples(coco)[SampleKey(0, 2, 9)], _samples(coco)[SampleKey(0, 2, 9)]
    assert torch.equal(first.image, again.image) and torch.equal(first.boxes_xyxy, again.boxes_xyxy)
    made = {_samples(coco)[SampleKey(0, epoch, 9)].image.numpy().tobytes() for epoch in range(12)}
    assert 1 < len(made) <= 6


def test_dropped_boxes_are_counted(coco: CocoDataset) -> None:
    samples = TransformedDetectionDataset(coco, DetectionTransforms([], min_box_size=11.0))
    assert samples.collate([samples[SampleKey(2, 0, 0)]], 1).num_dropped_boxes == 1


def test_missing_image_is_an_error_or_replaced(coco: CocoDataset, coco_folder: Path) -> None:
    (coco_folder / "1.png").unlink()
    with pytest.raises(ImageError, match=r"1\.png.*does not exist"):
        _samples(coco)[SampleKey(0, 0, 0)]
    samples = _samples(coco, on_bad_image="skip")
    made, again = samples[SampleKey(0, 0, 4)], samples[SampleKey(0, 0, 4)]
    assert made.image_id != 1 and made.image_id == again.image_id
    assert len(made.skipped) >= 1 and "1.png" in made.skipped[0]
    assert len(made.boxes_xyxy) == len(coco.annotations(int(made.image_id) - 1)), "with the boxes of its own"
    assert samples.collate([made], 32).skipped == made.skipped
    others = {samples[SampleKey(0, epoch, 4)].image_id for epoch in range(20)}
    assert len(others) > 2


def test_size_that_differs_from_the_annotation(coco: CocoDataset, coco_folder: Path) -> None:
    (coco_folder / "1.png").write_bytes((coco_folder / "2.png").read_bytes())
    with pytest.raises(ImageError, match=r"1\.png.*40 x 60.*says 60 x 40"):
        _samples(coco)[SampleKey(0, 0, 0)]


def test_giving_up_when_nothing_can_be_read(coco: CocoDataset, coco_folder: Path) -> None:
    for file in coco_folder.glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ImageError, match="10 images in a row"):
        _samples(coco, on_bad_image="skip")[SampleKey(0, 0, 0)]


def test_unknown_policy(coco: CocoDataset) -> None:
    with pytest.raises(ValueError, match='"error" or "skip", got \'ignore\''):
        _samples(coco, on_bad_image="ignore")


def test_classification(coco: CocoDataset, coco_folder: Path) -> None:
    steps = DetectionTransforms([{"type": "random_resized_crop", "size": 24}])
    samples = TransformedClassificationDataset(_Labelled(coco), steps, 1, "skip")
    batch = samples.collate([samples[SampleKey(i, 0, i)] for i in range(3)], 1)
    assert isinstance(batch.targets, torch.Tensor) and batch.targets.tolist() == [0, 1, 0]
    assert batch.targets.dtype == torch.int64 and batch.images.pixels.shape == (3, 3, 24, 24)
    (coco_folder / "1.png").unlink()
    assert "does not exist" in samples[SampleKey(0, 0, 0)].skipped[0]


def test_annotations_are_not_written_to(coco: CocoDataset) -> None:
    before = coco.annotations(2).boxes_xyxy.copy()
    for position in range(5):
        _samples(coco)[SampleKey(2, 0, position)].boxes_xyxy.mul_(0)
    np.testing.assert_array_equal(coco.annotations(2).boxes_xyxy, before)
