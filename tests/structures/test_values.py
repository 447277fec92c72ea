"""Boxes, image batches, ground truth, detections and keyed randomness."""

import pytest
import torch
from torchvision.ops import box_iou

from detres.structures import Batch, Detections, GroundTruth, ImageBatch
from detres.structures.boxes import box_area, clip_boxes, pairwise_ioa, pairwise_iou, xywh_to_xyxy, xyxy_to_xywh
from detres.structures.random import derive_seed, keyed_uniform


def test_no_boxes() -> None:
    none = torch.zeros(0, 4)
    assert box_area(none).shape == (0,)
    assert pairwise_iou(none, torch.zeros(3, 4)).shape == (0, 3)
    assert clip_boxes(none, torch.tensor([5, 5])).shape == (0, 4)


def test_iou_equals_torchvisions_in_batches_too() -> None:
    corner = torch.rand(2, 30, 2) * 20
    boxes = torch.cat([corner, corner + torch.rand(2, 30, 2) * 10], dim=-1)
    got = pairwise_iou(boxes, boxes[:, :7])
    for i in range(2):
        torch.testing.assert_close(got[i], box_iou(boxes[i], boxes[i, :7]))


def test_ioa_is_the_share_of_the_first() -> None:
    small, crowd = torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([[1.0, 0.0, 100.0, 100.0]])
    assert pairwise_ioa(small, crowd).item() == 0.75


def test_clipping_per_image() -> None:
    boxes = torch.tensor([[[-5.0, -5.0, 50.0, 50.0]], [[10.0, 10.0, 90.0, 90.0]]])
    clipped = clip_boxes(boxes, torch.tensor([[20, 30], [80, 40]]))
    assert clipped.tolist() == [[[0.0, 0.0, 30.0, 20.0]], [[10.0, 10.0, 40.0, 80.0]]]


def test_xywh_there_and_back() -> None:
    boxes = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    assert xyxy_to_xywh(boxes).tolist() == [[1.0, 2.0, 3.0, 6.0]]
    assert torch.equal(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)


def test_image_batch_needs_an_image() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        ImageBatch.from_images([])


@pytest.mark.parametrize("innermost", [False, True])
def test_a_batch_lies_in_memory_as_its_images_do(innermost: bool) -> None:
    images = [torch.randint(1, 256, (3, h, w), dtype=torch.uint8) for h, w in [(5, 9), (8, 2), (1, 1)]]
    if innermost:
        images = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]
    pixels = ImageBatch.from_images(images, size_divisibility=8).pixels
    shared = ImageBatch.from_images(images, size_divisibility=8, shared=True).pixels
    assert shared.is_shared() and torch.equal(shared, pixels) and shared.stride() == pixels.stride()
    assert pixels.shape == (3, 3, 8, 16) and pixels.is_contiguous(memory_format=torch.channels_last) == innermost
    for slot, image in zip(pixels, images, strict=True):
        assert torch.equal(slot[:, : image.shape[1], : image.shape[2]], image)
        assert int(slot.count_nonzero()) == image.numel(), "zeros everywhere else"


def test_detections_go_back_to_the_original_image() -> None:
    batch = ImageBatch.from_images([torch.zeros(3, 50, 100)], original_sizes_hw=[(100, 400)])
    found = Detections(torch.tensor([[10.0, 5.0, 20.0, 25.0]]), torch.tensor([0.5]), torch.tensor([0]))
    (mapped,) = batch.to_original([found])
    assert mapped.boxes_xyxy.tolist() == [[40.0, 10.0, 80.0, 50.0]]
    assert mapped.image_size_hw == (100, 400)


def test_ground_truth_pads_and_tells_crowds_from_objects() -> None:
    boxes = [torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 9.0, 9.0]])]
    labels = [torch.zeros(0, dtype=torch.int64), torch.tensor([3, 1])]
    truth = GroundTruth.from_lists(boxes, labels, [torch.zeros(0, dtype=torch.bool), torch.tensor([False, True])])
    assert truth.valid.tolist() == [[False, False], [True, False]]
    assert truth.ignore.tolist() == [[False, False], [False, True]]
    assert truth.any_ignore and not GroundTruth.from_lists(boxes, labels).any_ignore
    assert GroundTruth.from_lists(boxes[:1], labels[:1]).boxes_xyxy.shape == (1, 0, 4)
    moved = Batch(ImageBatch.from_images([torch.zeros(3, 4, 4)] * 2), truth, [1, 2], ["a", "b"]).to("cpu")
    assert torch.equal(moved.targets.labels, truth.labels)


def test_detections_as_coco_rows() -> None:
    found = Detections(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([0.5]), torch.tensor([1]), ("a", "b"))
    assert found.to_coco(7, [10, 42]) == [
        {"image_id": 7, "category_id": 42, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    ]
    assert found.names() == ["b"] and Detections.empty().to_coco() == []
    with pytest.raises(ValueError, match="carry no image"):
        found.draw()


def test_keyed_numbers_depend_on_their_key_alone() -> None:
    seeds = torch.tensor([derive_seed(0, 1, 2), derive_seed(0, 1, 3)])
    numbers = keyed_uniform(seeds, 1000)
    assert torch.equal(numbers[1:], keyed_uniform(seeds[1:], 1000))
    assert torch.equal(numbers[:, :10], keyed_uniform(seeds, 10))
    assert not torch.equal(numbers[0], numbers[1])
    assert float(numbers.min()) >= 0 and float(numbers.max()) < 1
    many = keyed_uniform(torch.arange(100), 1000)
    assert abs(float(many.mean()) - 0.5) < 0.005 and abs(float(many.var()) - 1 / 12) < 0.002
    assert abs(float(torch.corrcoef(many[:2])[0, 1])) < 0.1  # neighbouring seeds are unrelated


def test_derived_seeds_mind_the_order() -> None:
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert all(0 <= derive_seed(0, i) < 1 << 63 for i in range(100))
