"""Caffe's files: the reader of protocol buffers against protobuf's own writer, names, and statistics."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detres.weights.formats import caffemodel
from detres.weights.report import WeightsError

DEEP = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@pytest.fixture(scope="module")
def net_type() -> Any:
    """caffe.proto's NetParameter as far as a net's weights go, as protobuf's classes."""
    protobuf = pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    assert protobuf.__version__
    field = descriptor_pb2.FieldDescriptorProto
    messages = {
        "BlobShape": [("dim", 1, field.TYPE_INT64, True)],
        "BlobProto": [("shape", 7, "BlobShape", False), ("data", 5, field.TYPE_FLOAT, True)]
        + [(name, i, field.TYPE_INT32, False) for i, name in enumerate(["num", "channels", "height", "width"], 1)],
        "Layer": [("name", 1, field.TYPE_STRING, False), ("type", 2, field.TYPE_STRING, False),
                  ("loss_weight", 5, field.TYPE_FLOAT, True), ("blobs", 7, "BlobProto", True)],
        "Net": [("name", 1, field.TYPE_STRING, False), ("layer", 100, "Layer", True)],
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(name="small_caffe.proto", package="small_caffe", syntax="proto2")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for label, number, kind, repeated in fields:
            added = message.field.add(name=label, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                added.type, added.type_name = field.TYPE_MESSAGE, f".small_caffe.{kind}"
            else:
                added.type = kind
            if label in ("dim", "data"):
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("small_caffe.Net"))


def write(net_type: Any, path: Path, layers: dict[str, list[Tensor]], *, old_shapes: bool = False) -> Path:
    net = net_type(name="ResNet")
    for name, blobs in layers.items():
        layer = net.layer.add(name=name, type="Layer", loss_weight=[1.0])
        for blob in blobs:
            added = layer.blobs.add(data=blob.flatten().tolist())
            if old_shapes:
                shape = [1] * (4 - blob.dim()) + list(blob.shape)
                added.num, added.channels, added.height, added.width = shape
            else:
                added.shape.dim.extend(blob.shape)
    net.layer.add(name="relu", type="ReLU")
    path.write_bytes(net.SerializeToString())
    return path


def resnet(depth: int, factor: float = 2.0) -> dict[str, list[Tensor]]:
    """The layers of MSRA's network of that depth, one channel wide: names as its prototxt has them."""
    layers: dict[str, list[Tensor]] = {"conv1": [torch.rand(1, 3, 7, 7)]}
    if depth == 50:
        layers["conv1"].append(torch.rand(1))

    def norm(name: str) -> None:
        layers[f"bn{name}"] = [torch.rand(1), torch.rand(1), torch.tensor([factor])]
        layers[f"scale{name}"] = [torch.rand(1), torch.rand(1)]

    norm("_conv1")
    for stage, count in enumerate(DEEP[depth], start=2):
        lettered = stage in (2, 5) or depth == 50
        for i in range(count):
            block = f"{stage}{'abcdef'[i] if lettered else 'a' if i == 0 else f'b{i}'}"
            for branch in ("1", "2a", "2b", "2c") if i == 0 else ("2a", "2b", "2c"):
                side = 3 if branch == "2b" else 1
                layers[f"res{block}_branch{branch}"] = [torch.rand(1, 1, side, side)]
                norm(f"{block}_branch{branch}")
    layers["fc1000"] = [torch.rand(5, 4), torch.rand(5)]
    return layers


@pytest.mark.parametrize("old_shapes", [False, True])
@pytest.mark.parametrize("depth", DEEP)
def test_msras_networks(net_type: Any, tmp_path: Path, depth: int, old_shapes: bool) -> None:
    layers = resnet(depth)
    blobs = caffemodel.read_caffemodel(write(net_type, tmp_path / "net.caffemodel", layers, old_shapes=old_shapes))
    assert len(blobs) == sum(map(len, layers.values())) and caffemodel.recognises(blobs)
    ours = caffemodel.to_detres(blobs)
    assert torch.equal(ours["backbone.conv1.weight"], layers["conv1"][0])
    assert torch.equal(ours["fc.weight"], layers["fc1000"][0]) and torch.equal(ours["fc.bias"], layers["fc1000"][1])
    bias = layers["conv1"][1] if depth == 50 else 0.0
    assert torch.equal(ours["backbone.bn1.running_mean"], layers["bn_conv1"][0] / 2 - bias)
    assert torch.equal(ours["backbone.bn1.running_var"], layers["bn_conv1"][1] / 2)
    last = "d" if depth == 50 else "b3" if depth == 101 else "b7"
    i = DEEP[depth][1] - 1
    assert torch.equal(ours[f"backbone.layer2.{i}.conv3.weight"], layers[f"res3{last}_branch2c"][0])
    assert torch.equal(ours[f"backbone.layer2.{i}.bn3.bias"], layers[f"scale3{last}_branch2c"][1])
    assert torch.equal(ours["backbone.layer4.0.downsample.0.weight"], layers["res5a_branch1"][0])
    found = caffemodel.implied(blobs, {})
    assert found.model["backbone"]["depth"] == depth and found.model["backbone"]["stride_in_1x1"] is True
    assert found.model["pixels"]["channel_order"] == "bgr"


def test_a_net_never_trained_and_blobs_without_a_place() -> None:
    blobs = {f"{name}/{i}": b for name, layer in resnet(50, factor=0.0).items() for i, b in enumerate(layer)}
    assert caffemodel.to_detres(blobs)["backbone.layer1.0.bn1.running_var"].item() == 0.0
    with pytest.raises(WeightsError, match="2 of .*conv2_1/0, res2a_branch2a/1"):
        caffemodel.to_detres({**blobs, "conv2_1/0": torch.zeros(1), "res2a_branch2a/1": torch.zeros(1)})
    with pytest.raises(WeightsError, match="write the format msra"):
        caffemodel.from_detres({})


def test_what_is_no_whole_file_is_refused(net_type: Any, tmp_path: Path) -> None:
    path = write(net_type, tmp_path / "net.caffemodel", {"conv1": [torch.rand(2, 3)]})
    whole = path.read_bytes()
    for size in (len(whole) - 3, len(whole) - 20, 9):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"net\.caffemodel: truncated or no caffemodel"):
            caffemodel.read_caffemodel(path)
    for content in (b"\xff" * 40, b'layer { name: "conv1" }', b"\x0b\x00"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="truncated or no caffemodel"):
            caffemodel.read_caffemodel(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="no layer with blobs"):
        caffemodel.read_caffemodel(path)
    with pytest.raises(WeightsError, match="absent"):
        caffemodel.read_caffemodel(tmp_path / "absent")
    # A blob whose shape claims far more than there is must not be made.
    huge = b"\x3a\x0b\x0a\x09" + b"\xff" * 8 + b"\x7f" + b"\x2d\x00\x00\x80\x3f"
    layer = b"\x0a\x01x" + b"\x3a" + bytes([len(huge)]) + huge
    path.write_bytes(b"\xa2\x06" + bytes([len(layer)]) + layer)
    with pytest.raises(WeightsError, match="4 bytes of numbers"):
        caffemodel.read_caffemodel(path)
