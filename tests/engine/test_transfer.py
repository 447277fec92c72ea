"""A batch on its way to the device; the GPU's streams are stood in for by names that note what they are told."""

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from detres.engine.transfer import Transfer
from detres.structures import Batch, GroundTruth, ImageBatch


def _detection() -> Batch:
    truth = GroundTruth.from_lists([torch.tensor([[0.0, 0, 4, 4]])], [torch.tensor([1])])
    return Batch(ImageBatch.from_images([torch.rand(3, 8, 8)]), truth, [1], ["a.jpg"])


def _classification() -> Batch:
    return Batch(ImageBatch.from_images([torch.rand(3, 8, 8)]), torch.tensor([1]), [1], ["a.jpg"])


@pytest.mark.parametrize("batch", [_detection(), _classification()], ids=["detection", "classification"])
def test_every_tensor_arrives(batch: Batch) -> None:
    moved = Transfer(torch.device("meta"))(batch)
    assert {tensor.device.type for tensor in moved.tensors()} == {"meta"}
    assert [tensor.shape for tensor in moved.tensors()] == [tensor.shape for tensor in batch.tensors()]
    assert moved.note() == batch.note()


class _Stream:
    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def wait_stream(self, other: "_Stream") -> None:
        self.told.append(f"{self.name} waits for {other.name}")


@pytest.mark.parametrize("batch", [_detection(), _classification()], ids=["detection", "classification"])
def test_on_a_gpu_copies_have_a_stream_of_their_own(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    copies, computing = _Stream("copies", told), _Stream("computing", told)

    @contextmanager
    def inside(stream: _Stream) -> Any:
        told.append(f"begin {stream.name}")
        yield
        told.append(f"end {stream.name}")

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        told.append("copy" if non_blocking else "copy and wait")
        return tensor

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copies)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: told.append(f"kept for {stream.name}"))
    Transfer(torch.device("cuda"))(batch)
    count = len(batch.tensors())
    copied = ["begin copies", *["copy"] * count, "end copies"]
    assert told == [*copied, "computing waits for copies", *["kept for computing"] * count]
