"""RoIAlign by sums of rows, against torchvision's operator and by hand."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from detres.layers.roi_align import roi_align_rows
from detres.layers.roi_pool import RoIPooler


def align(maps: Tensor, rois: Tensor, *, size: int = 7, scale: float = 0.25, ratio: int = 2, aligned: bool = True):
    levels = torch.zeros(len(rois), dtype=torch.int64)
    return roi_align_rows([maps], rois, levels, output_size=size, scales=[scale], sampling_ratio=ratio, aligned=aligned)


def regions(count: int) -> Tensor:
    """Of two images of 160 x 120 pixels, some of them partly or wholly outside, empty or larger than the image."""
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(count, 2, generator=generator) * 180 - 20
    size = torch.rand(count, 2, generator=generator) ** 2 * 200
    rois = torch.cat([torch.arange(count)[:, None] % 2.0, corner, corner + size], dim=1)
    special = [[5.0, 5, 5, 5], [-400, 0, -300, 50], [0, 0, 1000, 1000], [-3.9, -3.9, 163.9, 123.9], [40, 40, 30, 20]]
    rois[: len(special), 1:] = torch.tensor(special)
    return rois


def maps() -> Tensor:
    return torch.randn(2, 5, 30, 40, generator=torch.Generator().manual_seed(1))


def test_no_regions() -> None:
    assert align(maps(), torch.zeros(0, 5)).shape == (0, 5, 7, 7)


def test_one_bin_by_hand() -> None:
    cells = torch.arange(12.0).view(1, 1, 3, 4)
    # One point at (x, y) = (1.25, 0.5) in cells: between 1, 2 and 5, 6.
    got = align(cells, torch.tensor([[0.0, 1.25, 0.5, 2.25, 1.5]]), size=1, scale=1.0, ratio=1)
    assert got.item() == pytest.approx(0.5 * (0.75 * 1 + 0.25 * 2) + 0.5 * (0.75 * 5 + 0.25 * 6))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 7, 14])
def test_equals_torchvision_forwards_and_backwards(aligned: bool, ratio: int, size: int) -> None:
    ours, theirs = maps().requires_grad_(), maps().requires_grad_()
    # 300: more than are done at once
    got = align(ours, regions(300), size=size, ratio=ratio, aligned=aligned)
    expected = roi_align(theirs, regions(300), size, 0.25, ratio, aligned)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    got.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=min(2e-5, 1e-5 * float(theirs.grad.abs().max())))


@pytest.mark.parametrize("ratio", [-1, 0, 3, 5])
def test_equals_torchvision_in_double_precision(ratio: int) -> None:
    """Where rounding hides nothing, gradients are equal however many regions they are summed over."""
    ours, theirs = maps().double().requires_grad_(), maps().double().requires_grad_()
    rois = regions(300).double()
    got, expected = align(ours, rois, ratio=ratio), roi_align(theirs, rois, 7, 0.25, ratio, True)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    gradient = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    got.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-11)


def test_points_on_the_border_are_taken_as_the_operator_takes_them() -> None:
    """There the result jumps, so a point must be computed in the same order of operations."""
    generator = torch.Generator().manual_seed(6)
    for size_hw in ((7, 1), (1, 9), (5, 5)):
        cells = torch.randn(1, 2, *size_hw, generator=generator)
        corner = torch.randint(-8, 40, (2000, 2), generator=generator) / 4
        rois = torch.cat(
            [torch.zeros(2000, 1), corner, corner + torch.randint(0, 80, (2000, 2), generator=generator) / 4], 1
        )
        rois[0, 1:] = torch.tensor([0.75, 5.25, 0.75, 14.25])
        for ratio in (2, 3, 5, 7):
            got = align(cells, rois, size=14, scale=1.0, ratio=ratio)
            torch.testing.assert_close(got, roi_align(cells, rois, 14, 1.0, ratio, True), rtol=1e-5, atol=1e-5)


def test_gradients_by_finite_differences() -> None:
    cells = torch.rand(1, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    rois = torch.tensor([[0.0, 1.2, 0.7, 17.3, 15.0], [0.0, 8.0, 4.0, 30.0, 10.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda each: align(each, rois, size=2, ratio=0), (cells,))


def test_the_memory_of_the_map_changes_nothing() -> None:
    plain, last = maps(), maps().contiguous(memory_format=torch.channels_last)
    got = align(last, regions(20))
    assert torch.equal(got, align(plain, regions(20)))
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_rounds_values_not_corners() -> None:
    rois = torch.tensor([[0.0, 801.0, 401.0, 829.0, 429.0]])
    ramp = torch.arange(1200.0 / 4)[None, None, None, :].expand(1, 1, 150, -1) / 256
    expected = align(ramp, rois)
    got = align(ramp.bfloat16(), rois)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=2**-7, atol=0.0)


def test_corners_that_are_no_numbers_give_zeros() -> None:
    rois = torch.tensor([[0.0, float("nan"), 0, 9, 9], [0, 0, 0, float("inf"), 9], [1, 4, 4, 40, 40]])
    for ratio in (0, 2):
        got = align(maps(), rois, ratio=ratio)
        assert not got[:2].any()
        torch.testing.assert_close(got[2:], roi_align(maps(), rois[2:], 7, 0.25, ratio, True))


def test_levels_are_those_of_the_operator() -> None:
    generator = torch.Generator().manual_seed(5)
    pyramid = [torch.randn(2, 3, 256 // s, 256 // s, generator=generator) for s in (4, 8, 16, 32)]
    corner, size = torch.rand(2, 2, 50, 2, generator=generator).unbind(0)
    boxes = torch.cat([corner * 200, corner * 200 + size**3 * 300], dim=2)
    for ratio in (0, 2):
        ours, theirs = ([each.clone().requires_grad_() for each in pyramid] for _ in range(2))
        pooler = RoIPooler([4, 8, 16, 32], sampling_ratio=ratio)
        got, expected = pooler(ours, boxes), pooler.pool_by_operator(theirs, *pooler.place(boxes))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        (got.square().sum() + expected.square().sum()).backward()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                mine.grad, other.grad, rtol=1e-5, atol=min(1e-4, 1e-5 * float(other.grad.abs().max()))
            )
