"""The Python face of detres: `detres.load`, Detector, ImageClassifier and ImageLocalizer.

Shapes: H, W the height and width of an input image.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from detres.data.image_input import ImageInput, to_rgb_array
from detres.layers.inference import optimize_networks
from detres.structures import Classification, Detections, ImageBatch

if TYPE_CHECKING:
    from typing_extensions import Self

    from detres.data.transforms import DetectionTransforms


class Predictor:
    """A trained network with everything that it needs to look at an image: names, transforms, device.

    The common half of Detector, ImageClassifier and ImageLocalizer.

    network            predict(ImageBatch), see there
    class_names        one name per label
    transforms         what evaluation does to an image: resizing, mostly
    device             "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...
    size_divisibility  what batches are padded to
    precision          float32, bfloat16 or float16
    inference          the settings of its own that optimize_for_inference() takes
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        transforms: "DetectionTransforms",
        *,
        device: str | torch.device = "auto",
        size_divisibility: int = 32,
        precision: str = "float32",
        inference: Mapping[str, bool] | None = None,
    ) -> None:
        if precision not in _AUTOCAST_TYPES:
            raise ValueError(f"precision must be one of {', '.join(_AUTOCAST_TYPES)}; got {precision!r}")
        self.device = choose_device(device)
        self.network = network.to(self.device).eval()
        self.class_names = tuple(class_names)
        self.transforms = transforms
        self.size_divisibility = size_divisibility
        self.precision = precision
        self._inference = dict(inference or {})
        self._autocasts = precision != "float32"

    def optimize_for_inference(self, **settings: Any) -> "Self":
        """Make the network, in place, compute the same faster, never to be trained again; returns the predictor.

        settings: fold_norms, channels_last, winograd, precision and compile, as the method of this name of
        detres.detector.FasterRCNN takes them; what is left out is as in the checkpoint's eval.inference and
        eval.precision, or as there by default. A network of your own, which has no such method, stays as it is.
        """
        chosen = {"precision": self.precision, **self._inference, **settings}
        if optimize_networks(self.network, **chosen):
            self.precision, self._autocasts = chosen["precision"], False
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.network).__name__}, {len(self.class_names)} classes, {self.device})"

    def _batches(
        self, inputs: ImageInput | Sequence[ImageInput], batch_size: int
    ) -> Iterator[tuple[list[np.ndarray], ImageBatch]]:
        """The images in groups: as given (H, W, 3), and as a batch on the device."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        images = list(inputs) if isinstance(inputs, (list, tuple)) else [cast(ImageInput, inputs)]
        for start in range(0, len(images), batch_size):
            arrays = [to_rgb_array(image) for image in images[start : start + batch_size]]
            resized = [torch.from_numpy(self._resize(array)).permute(2, 0, 1) for array in arrays]
            sizes = [(array.shape[0], array.shape[1]) for array in arrays]
            yield arrays, ImageBatch.from_images(resized, sizes, self.size_divisibility).to(self.device)

    def _resize(self, array: np.ndarray) -> np.ndarray:
        no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        return self.transforms(array, no_boxes, no_labels, np.zeros(0, bool), 0)[0]

    def _run(self, batch: ImageBatch, *more: Any) -> Any:
        """What the network predicts for a batch."""
        self.network.eval()  # whoever trains it further may have left it otherwise
        with self._autocast():
            return cast(Any, self.network).predict(batch, *more)

    def _finish(
        self, array: np.ndarray, found: Detections, score_threshold: float | None, keep_image: bool
    ) -> Detections:
        """What a person gets of the boxes in an image (H, W, 3): on the CPU, with names, by option with the image."""
        found = found.to("cpu")
        shown = found if score_threshold is None else found[found.scores >= score_threshold]
        return replace(shown, class_names=self.class_names, image=_kept(array) if keep_image else None)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _AUTOCAST_TYPES[self.precision]
        return torch.autocast(self.device.type, dtype) if self._autocasts else nullcontext()


class Detector(Predictor):
    """A trained detector; its network has predict(ImageBatch) -> list[Detections], in pixels of the resized images."""

    @overload  # a str is a sequence of str as well; it means one path
    def predict(  # type: ignore[overload-overlap]
        self, inputs: ImageInput, *, score_threshold: float | None = ..., keep_images: bool = ...
    ) -> Detections: ...

    @overload
    def predict(
        self,
        inputs: Sequence[ImageInput],
        *,
        score_threshold: float | None = ...,
        batch_size: int = ...,
        keep_images: bool = ...,
    ) -> list[Detections]: ...

    def predict(
        self,
        inputs: ImageInput | Sequence[ImageInput],
        *,
        score_threshold: float | None = None,
        batch_size: int = 1,
        keep_images: bool = True,
    ) -> Detections | list[Detections]:
        """Detections of one image, or a list of them for a list of images (sizes may differ).

        An image is a path, an (H, W, 3) uint8 RGB array, a (3, H, W) RGB tensor (uint8, or float in 0..1) or a PIL
        image. Boxes are in pixels of the image as given; the image itself is kept for `.draw()`, unless `keep_images`
        is false. `score_threshold` drops detections below it; those that the network's own threshold drops do not
        come back with a lower one. Raises ValueError or TypeError, naming the image, for anything else.
        """
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in 0..1, got {score_threshold}")
        found: list[Detections] = []
        for arrays, batch in self._batches(inputs, batch_size):
            with torch.inference_mode():
                outputs = batch.to_original(self._run(batch))
            found += [self._finish(*pair, score_threshold, keep_images) for pair in zip(arrays, outputs, strict=True)]
        return found if isinstance(inputs, (list, tuple)) else found[0]


class ImageClassifier(Predictor):
    """A trained classifier; its network has predict(ImageBatch) -> logits, or log-probabilities (N, K)."""

    @overload  # a str is a sequence of str as well; it means one path
    def predict(self, inputs: ImageInput, *, keep_images: bool = ...) -> Classification: ...  # type: ignore[overload-overlap]

    @overload
    def predict(
        self, inputs: Sequence[ImageInput], *, batch_size: int = ..., keep_images: bool = ...
    ) -> list[Classification]: ...

    def predict(
        self, inputs: ImageInput | Sequence[ImageInput], *, batch_size: int = 1, keep_images: bool = True
    ) -> Classification | list[Classification]:
        """The class probabilities of one image, or a list of them for a list of images (sizes may differ).

        Images are given as to Detector.predict, and seen once, as the evaluation transforms make them (also by a
        checkpoint that is evaluated by several crops or scales). The image itself is kept for `.draw()`, unless
        `keep_images` is false. Raises ValueError or TypeError, naming the image, for anything else.
        """
        found: list[Classification] = []
        for arrays, batch in self._batches(inputs, batch_size):
            for array, scores in zip(arrays, self._classify(batch), strict=True):
                image = _kept(array) if keep_images else None
                found.append(Classification(scores, self.class_names, array.shape[:2], image))
        return found if isinstance(inputs, (list, tuple)) else found[0]

    @torch.inference_mode()
    def _classify(self, batch: ImageBatch) -> Tensor:
        """Probabilities (N, K) float32 of one batch, on the CPU."""
        logits: Tensor = self._run(batch)
        return logits.float().softmax(dim=1).cpu()


class ImageLocalizer(Predictor):
    """A trained localizer; its network has predict(ImageBatch, labels or None) -> list[Detections]."""

    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        inputs: ImageInput,
        *,
        classes: Sequence[str] | None = ...,
        score_threshold: float | None = ...,
        keep_images: bool = ...,
    ) -> Detections: ...

    @overload
    def predict(
        self,
        inputs: Sequence[ImageInput],
        *,
        classes: Sequence[str] | None = ...,
        score_threshold: float | None = ...,
        batch_size: int = ...,
        keep_images: bool = ...,
    ) -> list[Detections]: ...

    def predict(
        self,
        inputs: ImageInput | Sequence[ImageInput],
        *,
        classes: Sequence[str] | None = None,
        score_threshold: float | None = None,
        batch_size: int = 1,
        keep_images: bool = True,
    ) -> Detections | list[Detections]:
        """One box for each of the most likely classes of an image (model.num_boxes of them), the best first.

        `classes`: the names of those to be found instead, whatever else there may be; boxes come in their order.
        Images are given, and boxes come back, as with Detector.predict. Raises ValueError for an unknown class.
        """
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in 0..1, got {score_threshold}")
        labels = None if classes is None else torch.tensor([self._labels_of(classes)], device=self.device)
        found: list[Detections] = []
        for arrays, batch in self._batches(inputs, batch_size):
            asked = None if labels is None else labels.expand(len(batch), -1)
            with torch.inference_mode():
                outputs = batch.to_original(self._run(batch, asked))
            found += [self._finish(*pair, score_threshold, keep_images) for pair in zip(arrays, outputs, strict=True)]
        return found if isinstance(inputs, (list, tuple)) else found[0]

    def _labels_of(self, classes: Sequence[str]) -> list[int]:
        classes = [classes] if isinstance(classes, str) else classes
        if unknown := [name for name in classes if name not in self.class_names]:
            near = difflib.get_close_matches(unknown[0], self.class_names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it knows {', '.join(self.class_names[:5])} ..."
            raise ValueError(f"the localizer knows no class {unknown[0]!r}{hint}")
        if not classes:
            raise ValueError("classes is empty: name at least one, or leave it out for the most likely ones")
        return [self.class_names.index(name) for name in classes]


AnyPredictor = Detector | ImageClassifier | ImageLocalizer


def _kept(array: np.ndarray) -> Tensor:
    """A copy (3, H, W) of an image (H, W, 3), to draw on later."""
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


_AUTOCAST_TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    path: str | Path,
    device: str | torch.device = "auto",
    *,
    trust_code: bool = False,
    overrides: Sequence[str] = (),
) -> AnyPredictor:
    """What a detres checkpoint holds: a Detector, ImageClassifier or ImageLocalizer, which knows its class names.

    `overrides` change settings of that configuration, as on the command line: `["eval.box_refinement={}"]`.
    Loading runs no code from the file. `trust_code` allows a checkpoint whose backbone is a class of your own
    (`type: module:Class`), which is imported and called. Raises ValueError naming the file when it is missing,
    truncated, or needs that trust.
    """
    from detres.wiring import predictor_from_checkpoint

    return predictor_from_checkpoint(path, device, trust_code=trust_code, overrides=overrides)


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The torch device of that name; "auto" is the GPU where there is one, else the CPU.

    Raises ValueError for a name that torch does not know and for a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is unknown; expected auto, cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device {str(device)!r} does not exist: torch sees {count} GPUs; use auto or cpu")
    return device
