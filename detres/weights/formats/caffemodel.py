"""Caffe's own files: MSRA's original ResNet-{50,101,152}-model.caffemodel, read and not written.

A file is a protocol buffer (caffe.proto: NetParameter > LayerParameter > BlobProto), of which a few fields matter. A
blob is called after its layer and its place in it: res2a_branch2a/0 is the weight of that convolution, bn2a_branch2a/0,
/1 and /2 are the mean, the variance and the factor that divides both, scale2a_branch2a/0 and /1 scale and shift.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detres.weights.formats import msra
from detres.weights.formats.interface import Implied
from detres.weights.report import WeightsError, shorten

NAME = "caffe"
BACKGROUND = "last"
IGNORABLE: tuple[str, ...] = ()

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MOST_VARINT_BYTES = 10
# Field numbers of caffe.proto: where a layer's name and blobs are, for a net's `layer` and its old `layers`.
_LAYERS = {100: (1, 7), 2: (4, 6)}
_DATA, _SHAPE, _DIM = 5, 7, 1
_OLD_SHAPE = (1, 2, 3, 4)  # num, channels, height, width
_BRANCHES = {"1": ("downsample.0", "downsample.1"), "2a": ("conv1", "bn1"), "2b": ("conv2", "bn2"),
             "2c": ("conv3", "bn3")}  # fmt: skip

_Field = tuple[int, int, Any]


def read_caffemodel(path: str | Path) -> dict[str, Tensor]:
    """The blobs of a .caffemodel file as {layer}/{index}.

    Raises WeightsError when the file is truncated or no such file.
    """
    try:
        content = memoryview(Path(path).read_bytes())
        blobs = {f"{name}/{i}": blob for name, layer in _layers(content) for i, blob in enumerate(layer)}
    except (ValueError, OSError) as error:  # _Malformed, or a shape that numpy cannot have
        raise WeightsError(f"{path}: truncated or no caffemodel ({error}); copy or download it again") from error
    if not blobs:
        raise WeightsError(f"{path}: no layer with blobs in it; expected a .caffemodel, not a .prototxt")
    return blobs


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the blobs of one of MSRA's ResNets."""
    return "bn_conv1/0" in keys and "res2a_branch2a/0" in keys


def to_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same network under detres's names: statistics divided by their factor, the first bias taken off the mean.

    ResNet-50's first convolution has a bias, which the mean of the norm behind it takes up. Raises WeightsError that
    lists the blobs without a name.
    """
    ours: dict[str, Tensor] = {}
    left_over = []
    for key, blob in state.items():
        layer, _, index = key.rpartition("/")
        name = _name(layer, int(index) if index.isdigit() else -1)
        if name is None:
            left_over.append(key)
        elif not name.endswith("/"):
            ours[name] = _value(name, blob, state.get(f"{layer}/2"))
    if left_over:
        raise WeightsError(
            f"caffe: {len(left_over)} of {len(state)} blobs have no place in a ResNet: {shorten(left_over, 100)}"
        )
    if "conv1/1" in state and "backbone.bn1.running_mean" in ours:
        ours["backbone.bn1.running_mean"] = ours["backbone.bn1.running_mean"] - state["conv1/1"].flatten()
    return ours


def from_detres(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Nothing: WeightsError names the format to write instead."""
    raise WeightsError("caffe: detres reads Caffe's files and writes none; write the format msra, Caffe2's names")


def implied(state: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Implied:
    """The network with MSRA's pixels and stride."""
    return msra.implied_by(to_detres(state))


def instructions(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """None: nothing is written."""
    return []


def _name(layer: str, index: int) -> str | None:
    """The name of a blob; one that ends with "/" for blobs that other blobs take up, None where there is none."""
    if layer == "fc1000" and index in (0, 1):
        return f"fc.{('weight', 'bias')[index]}"
    if layer == "conv1" and index in (0, 1):
        return ("backbone.conv1.weight", "conv1.bias/")[index]
    found = re.fullmatch(r"(res|bn|scale)(?:_(conv1)|(\d)([a-z])(\d*)_branch(1|2[abc]))", layer)
    if found is None:
        return None
    kind, stem, stage, letter, number, branch = found.groups()
    conv, norm = ("conv1", "bn1") if stem else _BRANCHES[branch]
    # Deep stages count their blocks a, b1, b2, ..., shallow ones a, b, c, ...
    place = "backbone." if stem else f"backbone.layer{int(stage) - 1}.{number or ord(letter) - ord('a')}."
    names = {
        "res": (f"{place}{conv}.weight",),
        "bn": (f"{place}{norm}.running_mean", f"{place}{norm}.running_var", f"{place}{norm}.factor/"),
        "scale": (f"{place}{norm}.weight", f"{place}{norm}.bias"),
    }[kind]
    return names[index] if 0 <= index < len(names) else None


def _value(name: str, blob: Tensor, factor: Tensor | None) -> Tensor:
    if name == "fc.weight":
        return blob.reshape(blob.shape[-2:])  # old files have four dimensions for everything
    if ".conv" in name or ".downsample.0." in name:
        return blob
    blob = blob.flatten()
    if ".running_" not in name or factor is None:
        return blob
    divisor = float(factor.flatten()[0])
    return blob / divisor if divisor != 0 else torch.zeros_like(blob)  # Caffe's own rule for a net never trained


class _Malformed(ValueError):
    """Bytes that are no protocol buffer, or not the one expected."""


def _layers(net: memoryview) -> Iterator[tuple[str, list[Tensor]]]:
    """Name and blobs of every layer that has blobs."""
    for number, wire, layer in _fields(net):
        if number in _LAYERS and wire == _BYTES:
            name_field, blobs_field = _LAYERS[number]
            parts = list(_fields(layer))
            names = [value for number, wire, value in parts if number == name_field and wire == _BYTES]
            blobs = [_blob(value) for number, wire, value in parts if number == blobs_field and wire == _BYTES]
            if blobs:
                yield (bytes(names[0]).decode(errors="replace") if names else ""), blobs


def _blob(blob: memoryview) -> Tensor:
    data, shape = bytearray(), []
    old_shape: dict[int, int] = {}
    for number, wire, value in _fields(blob):
        if number == _DATA and wire in (_BYTES, _FOUR_BYTES):  # packed, or one by one
            data += value
        elif number == _SHAPE and wire == _BYTES:
            shape = [dim for number, wire, dims in _fields(value) if number == _DIM for dim in _varints(wire, dims)]
        elif number in _OLD_SHAPE and wire == _VARINT:
            old_shape[number] = value
    shape = shape or [old_shape.get(number, 1) for number in _OLD_SHAPE if old_shape]
    if len(data) % 4 or int(np.prod(shape, dtype=object)) * 4 != len(data):
        raise _Malformed(f"a blob of shape {shape} has {len(data)} bytes of numbers")
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").reshape(shape).copy())


def _fields(message: memoryview) -> Iterator[_Field]:
    """Field number, wire type and value (an integer or bytes) of everything in a message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise _Malformed(f"wire type {wire} at byte {position}")
        if number == 0 or size > len(message) - position:
            raise _Malformed(f"field {number} of {size} bytes where {len(message) - position} are left")
        yield number, wire, message[position : position + size]
        position += size


def _varints(wire: int, value: Any) -> Iterator[int]:
    """The integers of a repeated field: packed, or one by one."""
    if wire == _VARINT:
        yield value
    elif wire == _BYTES:
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            yield number


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """An integer and the position behind it."""
    result = 0
    for i, byte in enumerate(message[position : position + _MOST_VARINT_BYTES]):
        result |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return result, position + i + 1
    raise _Malformed(f"no end of the integer at byte {position}")
