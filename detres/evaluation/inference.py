"""Run a model over a loader: detections in original pixels, or class logits.

Shapes: M images of the data set, K classes.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detres.structures import Batch, Detections, ImageBatch
from detres.structures.processes import ALONE, Processes

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class ImageScores(NamedTuple):
    """What classify_all returns: all on the CPU, one row for each of M images that could be read.

    logits  (M, K) float32: logits or log-probabilities
    labels  (M,) int64, the true classes
    rows    (M,) int64, the place of each image in the loader's order
    """

    logits: Tensor
    labels: Tensor
    rows: Tensor


def predict_all(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    device: torch.device | str,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
    image_ids: Sequence[Any] | None = None,
    class_names: Sequence[str] = (),
    find: Callable[[ImageBatch, slice], list[Detections]] | None = None,
    processes: Processes = ALONE,
) -> list[Detections]:
    """Detections of every image, in the loader's order, on the CPU and in pixels of the original images.

    `model` has `predict(ImageBatch) -> list[Detections]`; afterwards it is in the mode (train or eval) it came in.
    `precision` is float32, bfloat16 or float16 (autocast). `progress` is called with the number of images done.

    A loader that replaces unreadable images (Batch.skipped) needs `image_ids`, the ids that are due in order: where
    another image came instead, the entry is empty and a warning tells; without `image_ids` that is a ValueError.

    `find` is asked in place of model.predict, with a batch and its rows in the loader's order.

    Several `processes` share the loader's batches, and all get the detections of all images, the same to the last bit
    as one process finds; `progress` then goes by this process's images.
    """
    consequence = "they are evaluated as images without detections"
    found: list[Detections] = []
    with _evaluating(model), _autocast(device, precision):
        batches, first = share_of(loader, processes)
        for batch in batches:
            images = batch.images.to(device)
            rows = slice(first + len(found), first + len(found) + len(batch))
            predicted = model.predict(images) if find is None else find(images, rows)  # type: ignore[operator]
            outputs = [detections.to("cpu") for detections in predicted]
            named = [replace(d, class_names=tuple(class_names) or d.class_names) for d in outputs]
            mapped = batch.images.to_original(named)
            came = _came(batch, image_ids, rows.start, consequence)
            found += [
                detections if there else replace(Detections.empty(), class_names=detections.class_names)
                for detections, there in zip(mapped, came, strict=True)
            ]
            if progress is not None:
                progress(len(found))
    return [detections for share in processes.gather(found) for detections in share]


def classify_all(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    device: torch.device | str,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
    image_ids: Sequence[Any] | None = None,
    processes: Processes = ALONE,
) -> ImageScores:
    """Scores and labels in the loader's order; logits are (0, 0) without images.

    `model` has `predict(ImageBatch) -> Tensor (N, K)`. `precision`, `progress` and `processes` as in `predict_all`; so
    is `image_ids`, but an image that could not be read is left out: it has no scores.
    """
    batches, first = share_of(loader, processes)
    found: list[ImageScores] = []
    done = 0
    with _evaluating(model), _autocast(device, precision):
        for batch in batches:
            assert isinstance(batch.targets, Tensor), "classification batches carry a tensor of labels"
            output: Tensor = model.predict(batch.images.to(device))  # type: ignore[operator]
            came = torch.tensor(_came(batch, image_ids, first + done, "they do not count"))
            rows = torch.arange(first + done, first + done + len(batch))
            found.append(ImageScores(output.float().cpu()[came], batch.targets.cpu()[came], rows[came]))
            done += len(batch)
            if progress is not None:
                progress(done)
    every = [scores for share in processes.gather(found) for scores in share] or [_no_scores()]
    return ImageScores(*(torch.cat(column) for column in zip(*every, strict=True)))


def _no_scores() -> ImageScores:
    return ImageScores(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def share_of(loader: Iterable[Batch], processes: Processes) -> tuple[Iterable[Batch], int]:
    """This process's batches, whole and one after the other, and the place of their first image in the loader's order.

    The batches stay those of one process, so that each is computed to the same bits wherever it is. With several
    processes the loader must be able to `share` them (detres.data.loader.EvalLoader).
    """
    if processes.world_size == 1:
        return loader, 0
    shared: tuple[Iterable[Batch], int] = loader.share(processes.rank, processes.world_size)  # type: ignore[attr-defined]
    return shared


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; then every module gets its own mode back (frozen norms may differ from the model).

    no_grad and not inference_mode: what a model caches meanwhile (anchors) must be usable in training afterwards.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _autocast(device: torch.device | str, precision: str) -> AbstractContextManager[Any]:
    if precision == "float32":
        return nullcontext()
    if precision not in _DTYPES:
        raise ValueError(f"precision must be float32, bfloat16 or float16, got {precision!r}")
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[precision])


def _came(batch: Batch, image_ids: Sequence[Any] | None, start: int, consequence: str) -> list[bool]:
    """Which images of the batch are those that were due, image_ids[start], ..., and not replacements of theirs."""
    if image_ids is not None:
        if batch.skipped:
            warnings.warn(f"images could not be read, {consequence}: {'; '.join(batch.skipped)}", stacklevel=3)
        due = image_ids[start : start + len(batch)]
        return [got == wanted for got, wanted in zip(batch.image_ids, due, strict=True)]
    if batch.skipped:
        raise ValueError(
            f"the loader replaced images that it could not read ({'; '.join(batch.skipped)}), and evaluation needs "
            "every image: pass image_ids to do without them, or set data.on_bad_image to error"
        )
    return [True] * len(batch)
