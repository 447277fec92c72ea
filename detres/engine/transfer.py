"""The way of a batch to the device it is computed on."""

import torch

from detres.structures import Batch


class Transfer:
    """Brings batches to `device`; on a GPU by a stream of its own, beside the step that is still being computed there.

    The host is ahead of the GPU, because nothing in a step waits for it: the next batch travels during the backward
    pass before it (from page-locked memory; the loader's pin_memory).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        """The batch on the device; what is told to the device from now on finds it whole."""
        if self._copies is None:
            return batch.to(self._device)
        with torch.cuda.stream(self._copies):
            moved = batch.to(self._device)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._copies)
        for tensor in moved.tensors():  # its memory belongs to the copying stream, which must not take it back too soon
            tensor.record_stream(computing)
        return moved
