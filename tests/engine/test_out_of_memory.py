"""Steps that need more memory than there is: told of clearly, or taken in smaller parts with the same result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detres.engine.checkpoint import load_checkpoint
from detres.engine.optimizer import build_optimizer
from detres.engine.out_of_memory import StepOutOfMemory, is_out_of_memory, split_batch
from detres.engine.records import TrainerSettings
from detres.engine.train_step import TrainStep
from detres.structures import Batch, GroundTruth, ImageBatch


class Small(nn.Module):
    """A network whose losses are means over images, and which takes at most `room` images at a time."""

    def __init__(self, room: int, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.room, self.seen = room, list[int]()
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.fc = nn.Linear(3, 2)

    def forward(self, images: ImageBatch, targets: Tensor) -> dict[str, Tensor]:
        self.seen.append(len(images))
        pixels = self.norm(images.pixels)
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        logits = self.fc(pixels.mean(dim=(2, 3)))
        return {"loss_cls": nn.functional.cross_entropy(logits, targets), "loss_size": logits.square().mean()}


def _batch(count: int, side: int = 4) -> Batch:
    images = [torch.rand(3, side, side, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    names = list(range(count))
    return Batch(
        ImageBatch.from_images(images, size_divisibility=1), torch.arange(count) % 2, names, [f"{i}.jpg" for i in names]
    )


def _step(model: nn.Module, **settings: Any) -> TrainStep:
    optimizer = build_optimizer(model, type="sgd", lr=0.1, weight_decay=0.0)
    return TrainStep(model, optimizer, TrainerSettings(steps=1, **settings))


def test_what_counts_as_running_out() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError())


def test_pieces_of_a_batch() -> None:
    boxes = [torch.full((i, 4), float(i)) for i in range(5)]
    targets = GroundTruth.from_lists(boxes, [torch.zeros(i, dtype=torch.int64) for i in range(5)])
    batch = Batch(_batch(5).images, targets, list("abcde"), list("ABCDE"))
    pieces = split_batch(batch, 2)
    assert [piece.image_ids for piece in pieces] == [["a", "b"], ["c", "d", "e"]]
    assert [piece.files for piece in pieces] == [["A", "B"], ["C", "D", "E"]]
    joined = torch.cat([piece.targets.boxes_xyxy for piece in pieces])  # type: ignore[union-attr]
    assert torch.equal(joined, targets.boxes_xyxy), "padding included"
    assert torch.equal(torch.cat([piece.images.sampling_seeds for piece in pieces]), batch.images.sampling_seeds)
    assert [len(piece) for piece in split_batch(batch, 8)] == [1] * 5


def test_the_message_gives_shapes_and_settings() -> None:
    with pytest.raises(StepOutOfMemory) as caught:
        _step(Small(room=3)).gradients(7, [_batch(2), _batch(4, side=6)])
    text = str(caught.value)
    assert text.startswith(
        "step 7: not enough memory for a part of 4 x 3 x 6 x 6 pixels (0.jpg, 1.jpg, 2.jpg, 3.jpg): CUDA"
    )
    assert "train.accumulate=4" in text and "train.on_oom=split" in text and "checkpoint_activations=true" in text
    assert isinstance(caught.value, torch.OutOfMemoryError) and caught.value.state_is_whole


def test_other_errors_are_none_of_this() -> None:
    model = Small(room=9)
    model.fc.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        _step(model, split_on_oom=True).gradients(1, [_batch(2)])


@pytest.mark.parametrize(
    ("count", "room", "seen"), [(4, 2, [4, 2, 2]), (5, 1, [5, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1]), (3, 2, [3, 1, 2])]
)
def test_split_steps_give_the_same_gradient(count: int, room: int, seen: list[int]) -> None:
    whole, split = _step(Small(room=99)), _step(Small(room=room), split_on_oom=True)
    expected, norm = whole.gradients(1, [_batch(count)])
    found, split_norm = split.gradients(1, [_batch(count)])
    assert split.model.seen == seen
    torch.testing.assert_close(split_norm, norm)
    for one, other in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value.detach())


def test_a_failed_attempt_leaves_no_trace_in_the_statistics() -> None:
    """They are those of the smaller parts, as with train.accumulate, and the first attempt does not count."""
    split, parts = _step(Small(room=2, norm=True), split_on_oom=True), _step(Small(room=2, norm=True))
    split.gradients(1, [_batch(4)])
    parts.gradients(1, split_batch(_batch(4), 2))
    for name, tensor in parts.model.state_dict().items():
        assert torch.equal(split.model.state_dict()[name], tensor), name


def test_one_image_that_does_not_fit() -> None:
    step = _step(Small(room=0, norm=True), split_on_oom=True)
    with pytest.raises(StepOutOfMemory, match="not enough memory") as caught:
        step.gradients(1, [_batch(2)])
    assert "train.on_oom" not in str(caught.value) and caught.value.state_is_whole
    with pytest.raises(StepOutOfMemory) as caught:
        _step(Small(room=0, norm=True)).gradients(1, [_batch(2)])
    assert not caught.value.state_is_whole, "a batch norm has seen the batch already"


def _short_of_memory(trainer: Any, step: int, room: int) -> None:
    def hook(module: nn.Module, arguments: tuple[Tensor]) -> None:
        if trainer.progress.step + 1 == step and len(arguments[0]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.model.conv.register_forward_pre_hook(hook)


def test_a_run_that_stops_keeps_its_steps(make_trainer: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make_trainer(checkpoint_every=100)
    trainer.model.bn = nn.Identity()
    _short_of_memory(trainer, step=4, room=1)
    with pytest.raises(StepOutOfMemory, match="step 4"):
        trainer.run()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 3


def test_a_run_that_splits_goes_on_and_says_so(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(split_on_oom=True)
    _short_of_memory(trainer, step=4, room=1)
    assert trainer.run().steps == 6
    assert sum("step 4 did not fit into the memory" in text for text in trainer.reporter.messages) == 1
    assert trainer.reporter.logs[-1][1]["split_steps"] == 1
