"""RoI pooling on a pyramid, against torchvision's MultiScaleRoIAlign and by hand."""

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from detres.layers.roi_pool import RoIPooler, assign_levels

BOXES = torch.tensor(
    [
        [[0.0, 0.0, 30.0, 40.0], [10.0, 10.0, 250.0, 200.0], [0.0, 0.0, 256.0, 256.0], [5.0, 5.0, 120.0, 130.0]],
        [[50.0, 60.0, 55.0, 66.0], [0.0, 0.0, 112.0, 112.0], [0.0, 0.0, 224.0, 224.0], [9.0, 9.0, 9.0, 9.0]],
    ]
)


def pyramid() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 256 // s, 256 // s, generator=generator) for s in (4, 8, 16, 32)]


def test_no_regions() -> None:
    pooled = RoIPooler([4, 8, 16, 32])(pyramid(), torch.zeros(2, 0, 4))
    assert pooled.shape == (0, 3, 7, 7)


def test_equals_torchvision_on_a_pyramid() -> None:
    maps = pyramid()
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    expected = theirs(OrderedDict((str(i), m) for i, m in enumerate(maps)), list(BOXES), [(256, 256)] * 2)
    got = RoIPooler([4, 8, 16, 32], sampling_ratio=2, aligned=False)(maps, BOXES)
    torch.testing.assert_close(got, expected)


def test_gradients_reach_every_level_in_use() -> None:
    maps = [m.requires_grad_() for m in pyramid()]
    RoIPooler([4, 8, 16, 32])(maps, BOXES).sum().backward()
    assert [bool(m.grad.abs().sum() > 0) for m in maps] == [True, True, True, False]


def test_roi_pool_takes_the_maximum_of_each_bin() -> None:
    image = (10 * torch.arange(8.0)[:, None] + torch.arange(8.0))[None, None]
    boxes = torch.tensor([[[0.0, 0.0, 3.0, 3.0]]])
    got = RoIPooler([1], type="roi_pool", output_size=2)([image], boxes)
    assert got[0, 0].tolist() == [[11.0, 13.0], [31.0, 33.0]]  # RoIPool rounds and includes the last cell: 4 x 4 cells
    rois = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
    torch.testing.assert_close(got, roi_pool(image, rois, 2))


def test_a_degenerate_box_goes_to_the_finest_level() -> None:
    assert assign_levels(torch.tensor([[5.0, 5.0, 5.0, 5.0]]), 2, 5).tolist() == [2]


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="roi_align"):
        RoIPooler([4], type="crop")
    with pytest.raises(ValueError, match="double"):
        RoIPooler([4, 16])
