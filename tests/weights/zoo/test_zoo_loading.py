"""From a name to a network: what `zoo:NAME` serves is fetched, converted and loaded."""

import hashlib
import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detres import wiring
from detres.config import load_config
from detres.weights import WeightsError, read_state_dict, zoo
from detres.weights.formats import FORMATS
from detres.weights.zoo import find
from tests.files.test_download import Server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("DETRES_CACHE", str(tmp_path))
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


START = "model.backbone.weights=null"


def published(name: str, num_classes: int) -> dict[str, Tensor]:
    """Tensors as the entry's file has them, of one number each."""
    entry = find(name)
    with torch.device("meta"):
        model = wiring.build_model(load_config(entry.config, [*entry.overrides, START]).config, num_classes)
    state = FORMATS[entry.format].from_detres(model.state_dict())
    return {
        key: torch.full((), 0.5 + i / 1000, dtype=t.dtype).expand(t.shape) for i, (key, t) in enumerate(state.items())
    }


def serve(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes) -> None:
    """Let the entry's file come from the local server."""
    entry = find(name)
    algorithm = (entry.checksum or "md5:").partition(":")[0]
    checksum = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()[:8]}"
    server.files[entry.file_name] = content
    local = replace(entry, url=server.url(entry.file_name), checksum=checksum)
    monkeypatch.setattr(zoo, "find", {name: local}.__getitem__)


def torch_file(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_a_classifier(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "timm/resnet18d.ra2_in1k"
    state = published(name, 1000)
    serve(server, monkeypatch, name, torch_file(state))
    found = read_state_dict(f"zoo:{name}")
    assert found.kind == "classifier"
    assert torch.equal(found.state_dict["backbone.conv1.6.weight"], state["conv1.6.weight"])
    read_state_dict(f"zoo:{name}")
    assert len(server.ranges) == 1


def test_a_detector_becomes_a_network(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mmdetection/faster-rcnn_r50-caffe_fpn_1x_coco"
    state = published(name, 80)
    serve(server, monkeypatch, name, torch_file({"meta": {"epoch": 12}, "state_dict": state}))
    found = read_state_dict(f"zoo:{name}")
    assert found.kind == "detector" and found.background == "last"
    with torch.device("meta"):
        model = wiring.build_model(load_config(find(name).config, [*find(name).overrides, START]).config, 80)
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {
        key: tensor.shape for key, tensor in found.state_dict.items() if not key.endswith("num_batches_tracked")
    }


def test_a_file_that_is_no_weights(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(server, monkeypatch, "msra/R-50", pickle.dumps({"blobs": {"conv1_w": "text"}}))
    with pytest.raises(WeightsError, match="zoo:msra/R-50: holds no tensors by name"):
        read_state_dict("zoo:msra/R-50")
