"""Windows around cells, and the RPN head computed there alone, against the whole maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detres.detector.rpn import RPNHead
from detres.layers.patches import cut_patches


def _maps(channels: int) -> list[Tensor]:
    sizes = ((5, 7), (3, 4), (1, 2), (1, 1))
    return [torch.randn(2, channels, *size, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("radius", [1, 2])
def test_windows_are_those_of_the_padded_maps(radius: int) -> None:
    maps = _maps(3)
    count = sum(m[0, 0].numel() for m in maps)
    cells = torch.arange(count).repeat(2)
    patches, inside = cut_patches(maps, cells, count, radius)
    side = 2 * radius + 1
    for images, found in ((maps, patches), ([torch.ones_like(m[:, :1]) for m in maps], inside)):
        windows = [F.unfold(m, side, padding=radius).unflatten(1, (-1, side, side)) for m in images]
        expected = torch.cat([w.permute(0, 4, 2, 3, 1) for w in windows], dim=1).flatten(0, 1)
        assert torch.equal(found, expected)


def test_no_cells_no_windows() -> None:
    patches, inside = cut_patches(_maps(3), torch.zeros(0, dtype=torch.int64), 0, 1)
    assert patches.shape == (0, 3, 3, 3) and inside.shape == (0, 3, 3, 1)


@pytest.mark.parametrize("convs", [1, 2, 3])
def test_the_head_at_some_cells_is_the_head_everywhere(convs: int) -> None:
    """Values and all gradients, at the borders and on levels smaller than a window too; a cell may come twice."""
    torch.manual_seed(3)
    head = RPNHead(8, 3, convs=convs).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    maps = [m.detach().double().requires_grad_() for m in _maps(8)]
    cells = torch.tensor([[0, 6, 17, 34, 35, 47, 48, 49], [3, 3, 46, 38, 49, 20, 30, 28]])
    logits, deltas = head(maps)
    whole = (
        torch.cat(logits, 1).unflatten(1, (-1, 3)).gather(1, cells[:, :, None].expand(-1, -1, 3)),
        torch.cat(deltas, 1).unflatten(1, (-1, 3)).gather(1, cells[:, :, None, None].expand(-1, -1, 3, 4)),
    )
    few = head.at(maps, cells)
    leaves = [*head.parameters(), *maps]
    gradients = []
    for outputs in (whole, few):
        loss = (outputs[0] ** 2).sum() + (outputs[1] ** 3).sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for a, b in zip([*whole, *gradients[0]], [*few, *gradients[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
