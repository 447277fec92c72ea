"""Winograd's convolutions against torch's, on maps of all sizes, and against numbers computed in float64."""

import copy
import io
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detres.backbones import ResNet
from detres.layers import winograd
from detres.layers.winograd import WinogradConv2d, convolve, transform_weight, use_winograd

_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2}  # of the largest value


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def _maps(*shape: int, seed: int = 0) -> Tensor:
    maps = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return maps.contiguous(memory_format=torch.channels_last)


def _layer(inputs: int = 128, outputs: int = 128, bias: bool = True) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / (9 * inputs)) ** 0.5)
    return layer


def _error(found: Tensor, maps: Tensor, weight: Tensor, bias: Tensor | None) -> float:
    expected = F.conv2d(maps.double(), weight.double(), None if bias is None else bias.double(), padding=1)
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (7, 7), (3, 9), (8, 5), (25, 34), (50, 68), (41, 3)])
@pytest.mark.parametrize(("images", "inputs", "outputs"), [(1, 128, 128), (3, 8, 20), (2, 130, 7)])
def test_maps_of_any_size_and_any_number_of_channels(
    images: int, inputs: int, outputs: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    maps, layer = _maps(images, inputs, *size).to(dtype), _layer(inputs, outputs).to(dtype)
    found = convolve(maps, transform_weight(layer.weight), layer.bias)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    assert _error(found, maps, layer.weight, layer.bias) < _TOLERANCE[dtype]
    assert torch.equal(convolve(maps.contiguous(), transform_weight(layer.weight), layer.bias), found)


@pytest.mark.parametrize("chunk", [1, 36 * 8 * 300, 1 << 40])
@pytest.mark.parametrize(("images", "size"), [(1, (90, 70)), (150, (7, 7)), (3, (45, 60))])
def test_chunks_of_any_size(chunk: int, images: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_CHUNK", chunk)
    maps, layer = _maps(images, 8, *size), _layer(8, 8, bias=False)
    assert _error(convolve(maps, transform_weight(layer.weight), None), maps, layer.weight, None) < 1e-5


@pytest.mark.parametrize("images", [1, 2, 7, 64])
@pytest.mark.parametrize("rows", [1, 2, 7, 50, 300])
@pytest.mark.parametrize("columns", [1, 9, 68, 400])
def test_chunks_cover_every_tile_once_and_are_large_enough(images: int, rows: int, columns: int) -> None:
    seen = torch.zeros(images, rows, dtype=torch.long)
    for channels in (128, 256, 512, 2048):
        for of_images, of_rows in winograd._chunks(images, rows, columns, channels):
            part = seen[of_images, of_rows]
            part += 1
            enough = part.numel() * columns >= winograd._MIN_PRODUCTS
            assert enough or part.numel() == seen.numel()
    assert (seen == 4).all()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_other_packings_and_none_at_all(dtype: torch.dtype, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch lacks its compiler's operators, or the order of the weights depends on the number of tiles."""
    maps, layer = _maps(1, 64, 30, 40).to(dtype), _layer(64, 64).to(dtype)
    packed = convolve(maps, transform_weight(layer.weight), layer.bias)
    monkeypatch.setattr(winograd, "_has_one_packing", lambda *_: False)
    plain = transform_weight(layer.weight)
    assert not plain.is_mkldnn and plain.shape == (36 * 64, 64, 1, 1)
    torch.testing.assert_close(convolve(maps, plain, layer.bias), packed, rtol=most, atol=most)


def test_the_order_of_weights_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(winograd, "_packed", lambda grouped, tiles: asked.append(tiles) or grouped)
    for orders, expected in (([1, 1, 1, 1, 1, 1, 1], True), ([1, 1, 1, 1, 1, 1, 2], False)):
        orders_left = iter(orders)
        monkeypatch.setattr(
            torch.ops.mkldnn, "_get_mkldnn_serialized_md", lambda _, left=orders_left: torch.tensor(next(left)),
            raising=False,
        )  # fmt: skip
        for name in ("_reorder_convolution_weight", "_convolution_pointwise"):
            monkeypatch.setattr(torch.ops.mkldnn, name, None, raising=False)
        assert winograd._has_one_packing.__wrapped__(36, 1, torch.float32) is (
            expected and torch.backends.mkldnn.is_available()
        )
    assert set(asked) <= {64, 128, 256, 512, 1024, 2048, 4096}


def test_a_layer_keeps_its_parameters_and_can_be_copied_and_saved() -> None:
    plain = _layer()
    layer, maps = WinogradConv2d.of(plain), _maps(1, 128, 40, 40)
    found = layer(maps)
    torch.testing.assert_close(found, plain(maps), rtol=1e-4, atol=1e-4)
    assert not torch.equal(found, plain(maps)), "it is not the direct convolution"
    assert list(layer.state_dict()) == ["weight", "bias"] and layer.weight is plain.weight
    assert torch.equal(copy.deepcopy(layer)(maps), found)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(maps), found)


def test_weights_that_are_loaded_later_are_taken() -> None:
    layer, other, maps = WinogradConv2d.of(_layer()), _layer(), _maps(1, 128, 40, 40)
    layer(maps)
    other.weight.mul_(2)
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(maps), other(maps), rtol=1e-4, atol=1e-4)


def test_what_does_not_pay_is_computed_directly() -> None:
    plain = _layer()
    layer = WinogradConv2d.of(plain)
    for maps in (_maps(1, 128, 13, 17), _maps(1, 128, 1, 300)):  # few tiles, mostly empty ones
        assert torch.equal(layer(maps), plain(maps))
    maps = _maps(1, 128, 40, 40).requires_grad_()
    with torch.enable_grad():
        layer(maps).sum().backward()
    assert maps.grad is not None
    assert torch.equal(layer(maps[0]), plain(maps[0])), "without a batch"
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(maps).dtype == torch.bfloat16
    double = WinogradConv2d.of(_layer()).double()
    assert double(_maps(1, 128, 40, 40).double()).dtype == torch.float64


def test_bfloat16_where_the_processor_multiplies_it_by_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = _layer(64, 64).bfloat16(), _layer().bfloat16()
    for vectors, tiles, expected in ((True, False, True), (False, False, False), (True, True, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda vectors=vectors: vectors, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles, raising=False)
        assert WinogradConv2d.suits(many) is expected and not WinogradConv2d.suits(few)
        layer, maps = WinogradConv2d.of(many), _maps(2, 128, 30, 40).bfloat16()
        assert torch.equal(layer(maps), many(maps)) is not expected, "whether it is the direct convolution"
        assert _error(layer(maps), maps, many.weight, many.bias) < _TOLERANCE[torch.bfloat16]


def test_the_points_round_less_than_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, maps = _layer().bfloat16(), _maps(1, 128, 40, 40).relu().bfloat16()
    expected = F.conv2d(maps.double(), layer.weight.double(), layer.bias.double(), padding=1)
    monkeypatch.setattr(winograd, "_transforms", winograd._transforms.__wrapped__)  # not kept
    errors = []
    for points in ((0, 1, -1, 2, -2), winograd._POINTS):
        monkeypatch.setattr(winograd, "_POINTS", points)
        found = convolve(maps, transform_weight(layer.weight), layer.bias)
        errors.append((found - expected).square().mean().sqrt())
    assert errors[1] < 0.6 * errors[0]


def test_a_network_in_bfloat16_is_hardly_more_wrong_than_by_direct_convolutions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounding its maps to bfloat16 is what makes the most of the error."""
    monkeypatch.setattr(winograd, "_has_bfloat16_vectors", lambda: True)
    torch.manual_seed(3)
    network = ResNet(50, norm="none").eval()
    maps = F.interpolate(_maps(2, 3, 12, 16), size=(192, 256), mode="bicubic").contiguous(
        memory_format=torch.channels_last
    )
    expected = network(maps)["c5"]
    network.bfloat16()
    direct = network(maps.bfloat16())["c5"].float()
    assert use_winograd(network) == 10
    ours = network(maps.bfloat16())["c5"].float()
    assert not torch.equal(ours, direct)
    assert (ours - expected).square().mean() < 1.5**2 * (direct - expected).square().mean()


def test_which_layers_are_replaced() -> None:
    kept = [
        nn.Conv2d(128, 127, 3, padding=1),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 128, 3, padding=1, dtype=torch.float64),
    ]
    shared = _layer()
    network = nn.Sequential(*kept, shared, nn.Sequential(shared, nn.ReLU()))
    assert use_winograd(network) == 1
    assert list(network[:8]) == kept
    assert isinstance(network[8], WinogradConv2d) and network[9][0] is network[8]
    assert use_winograd(network) == 0
    twice = nn.Module()
    twice.one = twice.other = _layer()
    assert use_winograd(twice) == 1 and twice.one is twice.other
