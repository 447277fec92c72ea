"""A training step that needs more memory than there is: what to say, and how to take it in smaller parts.

Shapes: N images of a part, G boxes of the fullest image.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from detres.structures import Batch, GroundTruth, ImageBatch


class StepOutOfMemory(torch.OutOfMemoryError):
    """A step does not fit into the memory; the message gives the shapes of its batch and the settings to change.

    `state_is_whole`: the training stands where it stood before the step, so that it may be saved.
    """

    def __init__(self, message: str, state_is_whole: bool = True) -> None:
        super().__init__(message)
        self.state_is_whole = state_is_whole


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: the device's, or the host's as torch or Python report it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def split_batch(batch: Batch, pieces: int) -> list[Batch]:
    """The batch in that many pieces of nearly equal size, in order; at most one per image.

    Padding stays, so that each image is computed as in the whole batch.
    """
    bounds = [len(batch) * i // pieces for i in range(pieces + 1)]
    return [_images_of(batch, slice(a, b)) for a, b in zip(bounds, bounds[1:], strict=False) if a < b]


def updates_statistics(model: nn.Module) -> bool:
    """Whether a forward pass changes the model: whether a batch norm is collecting statistics."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.training and norm.track_running_stats for norm in norms)


def buffers_of(model: nn.Module) -> list[Tensor]:
    """Copies of the model's buffers: a forward pass that fails half-way has updated some batch norms already."""
    return [buffer.clone() for buffer in model.buffers()]


@torch.no_grad()
def restore_buffers(model: nn.Module, copies: list[Tensor]) -> None:
    """Give the model the buffers that `buffers_of` copied."""
    for buffer, copied in zip(model.buffers(), copies, strict=True):
        buffer.copy_(copied)


def describe_shortage(step: int, batch: Batch, parts: int, error: str, can_split: bool) -> str:
    """What did not fit, and which settings make it smaller."""
    num, _, height, width = batch.images.pixels.shape
    boxes = f", up to {batch.targets.boxes_xyxy.shape[1]} boxes each" if isinstance(batch.targets, GroundTruth) else ""
    files = ", ".join(batch.files[:4]) + (" ..." if len(batch.files) > 4 else "")
    settings = [f"train.accumulate={2 * parts} (the same batch in smaller parts)"] if num > 1 else []
    settings += ["train.on_oom=split (only where a batch does not fit)"] if num > 1 and can_split else []
    settings += ["smaller images in data.train_transforms", "train.precision=bfloat16"]
    settings += ["model.backbone.checkpoint_activations=true"]
    return (
        f"step {step}: not enough memory for a part of {num} x 3 x {height} x {width} pixels{boxes} ({files}): {error}"
        f". What makes it smaller: {'; '.join(settings)}"
    )


def _images_of(batch: Batch, some: slice) -> Batch:
    targets, images = batch.targets, batch.images
    if isinstance(targets, GroundTruth):
        tensors = {name: getattr(targets, name)[some] for name in ("boxes_xyxy", "labels", "valid", "ignore")}
        chosen: GroundTruth | Tensor = replace(targets, **tensors)
    else:
        chosen = targets[some]
    tensors = {name: getattr(images, name)[some] for name in vars(images)}
    return replace(
        batch,
        images=ImageBatch(**tensors),
        targets=chosen,
        image_ids=batch.image_ids[some],
        files=batch.files[some],
    )
