"""Convolutions together with what follows them give what one after the other gives."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detres.layers import convolution
from detres.layers.convolution import allow_one_pass, convolve_relu, convolve_then
from detres.layers.winograd import WinogradConv2d


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What was answered when a convolution asked whether it can have its ReLU in one pass."""
    answers: list[bool] = []
    is_one_pass = convolution._is_one_pass
    monkeypatch.setattr(convolution, "_is_one_pass", lambda *args: answers.append(is_one_pass(*args)) or answers[-1])
    return answers


def _layer(dtype: torch.dtype = torch.float32, **options: Any) -> nn.Conv2d:
    torch.manual_seed(3)
    layer = nn.Conv2d(16, 32, 3, **{"padding": 1, **options}).requires_grad_(False)
    allow_one_pass(layer)
    return layer.to(dtype, memory_format=torch.channels_last)


def _maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    maps = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return maps.to(dtype, memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(21, 34), (3, 3), (1, 5)])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"padding": 2}, {"dilation": 2, "padding": 2}, {"groups": 4}, {"bias": False}],
    ids=str,
)
def test_relu_in_one_pass(
    options: dict[str, Any], size: tuple[int, int], dtype: torch.dtype, asked: list[bool]
) -> None:
    layer, maps = _layer(dtype, **options), _maps(2, 16, *size, dtype=dtype)
    torch.testing.assert_close(convolve_relu(layer, maps), F.relu(layer(maps)), rtol=1e-5, atol=1e-6)
    assert convolve_relu(layer, maps[:0]).shape == layer(maps[:0]).shape
    assert asked == 2 * [convolution._has_operator(dtype)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(value: float, dtype: torch.dtype) -> None:
    layer, maps = _layer(dtype), _maps(1, 16, 9, 9, dtype=dtype)
    maps[0, 3, 4, 4] = value
    found, expected = convolve_relu(layer, maps), F.relu(layer(maps))
    assert not found[:, :, 3:6, 3:6][~expected[:, :, 3:6, 3:6].isfinite()].isfinite().any()
    assert not expected.isfinite().all()
    layer.weight[5] = value
    assert not convolve_relu(layer, _maps(1, 16, 9, 9, dtype=dtype))[:, 5].isfinite().any()


def test_relu_where_one_pass_is_not_possible(asked: list[bool]) -> None:
    maps = _maps(1, 16, 9, 9)
    learning, hooked, seen = nn.Conv2d(16, 32, 3), _layer(), []
    hooked.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.clone()))
    others = [learning, hooked, _layer(padding="same"), _layer(padding_mode="reflect"), _layer(torch.float64)]
    for layer in others:
        x = maps.to(layer.weight.dtype)
        assert torch.equal(convolve_relu(layer, x), F.relu(layer(x)))
    assert torch.equal(convolve_relu(_layer(), maps[0]), F.relu(_layer()(maps[0])))  # one image, without a batch
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve_relu(_layer(), maps).dtype == torch.bfloat16
    with torch.enable_grad():
        x = maps.clone().requires_grad_()
        convolve_relu(_layer(), x).sum().backward()  # weights that stay, and a gradient of the map
        assert x.grad is not None
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    convolve_relu(_layer(), maps)
    handle.remove()
    assert not any(asked) and len(asked) == 9
    assert len(seen) == 2 and torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("place", ["torch.backends.mkldnn.is_available", "torch._C._get_mkldnn_enabled"])
def test_relu_without_the_operator(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, maps = _layer(), _maps(1, 16, 9, 9)
    found = convolve_relu(layer, maps)
    monkeypatch.setattr(place, lambda: False)
    assert not convolution._has_operator(torch.float32)
    torch.testing.assert_close(convolve_relu(layer, maps), found, rtol=1e-5, atol=1e-6)


def test_hooks_of_a_winograd_convolution_see_its_map() -> None:
    torch.manual_seed(0)
    layer, head, seen = WinogradConv2d(128, 136, 3, padding=1), nn.Conv2d(136, 15, 1), []
    maps = _maps(1, 128, 40, 40)
    plain = convolve_then(layer, maps, head)
    layer.register_forward_pre_hook(lambda _layer, inputs: inputs)
    layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.shape))
    assert torch.equal(convolve_then(layer, maps, head), plain) and seen == [(1, 136, 40, 40)]
    assert convolve_relu(layer, maps).min() == 0


@pytest.mark.parametrize("shape", [(1, 128, 90, 70), (3, 128, 41, 30), (40, 128, 7, 7), (1, 128, 4, 4)])
def test_what_follows_is_computed_of_every_cell(shape: tuple[int, ...]) -> None:
    """By Winograd's algorithm in several chunks, of whole small maps, and where it does not pay."""
    torch.manual_seed(0)
    layer, head = nn.Conv2d(128, 136, 3, padding=1), nn.Conv2d(136, 15, 1)
    maps, winograd = _maps(*shape), WinogradConv2d.of(layer)
    expected = head(F.relu(layer(maps)))
    for conv in (layer, winograd):
        found = convolve_then(conv, maps, lambda convolved: head(F.relu_(convolved)))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(convolve_relu(winograd, maps), F.relu(layer(maps)), rtol=1e-5, atol=1e-5)
