"""Settings of training and evaluation."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detres.config.fields import (
    BelowOne,
    ByType,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveIntOrAuto,
    Settings,
    Switch,
)
from detres.config.test_time import (
    AugmentSettings,
    BoxRefinementSettings,
    DenseSettings,
    InferenceSettings,
    MultiScaleSettings,
)


class ParameterGroup(Settings):
    """Parameters whose name matches the regular expression `match` get their own factors; the first match counts."""

    match: str
    lr_factor: NonNegativeFloat = 1.0
    weight_decay: NonNegativeFloat | None = None

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        try:
            re.compile(self.match)
        except re.error as error:
            yield "match", f"got {self.match!r}, expected a regular expression ({error})"


class SGDSettings(Settings):
    """torch.optim.SGD."""

    type: Literal["sgd"]
    lr: PositiveFloat
    momentum: BelowOne = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    norm_weight_decay: NonNegativeFloat | None = None  # of norm weights and biases; None: weight_decay
    bias_weight_decay: NonNegativeFloat | None = None  # of other biases; None: weight_decay
    groups: list[ParameterGroup] = []

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if self.nesterov and self.momentum == 0:
            yield "nesterov", "got true with momentum 0, expected a momentum above 0"


class AdamWSettings(Settings):
    """torch.optim.AdamW."""

    type: Literal["adamw"]
    lr: PositiveFloat
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.05
    norm_weight_decay: NonNegativeFloat | None = 0.0
    bias_weight_decay: NonNegativeFloat | None = 0.0
    groups: list[ParameterGroup] = []


class MultiStep(Settings):
    """lr times `gamma` at each milestone; milestones are in steps, or in epochs when training counts in epochs."""

    type: Literal["multistep"]
    milestones: list[PositiveFloat]
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Cosine(Settings):
    """Half a cosine from lr down to lr times `final_factor`."""

    type: Literal["cosine"]
    final_factor: Fraction = 0.0


class Plateau(Settings):
    """lr times `gamma` when the best metric has not risen for `patience` evaluations."""

    type: Literal["plateau"]
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: NonNegativeInt = 3
    min_factor: Fraction = 1e-3


class Constant(Settings):
    """lr as it is."""

    type: Literal["constant"]


class Warmup(Settings):
    """The first `steps` steps (of the reference batch) rise from lr times `factor` to lr.

    Or, with `until_error`: lr times `factor` until the training error (0..1) is below it in the batch of a logged step
    (train.log_every), the first step excepted; one batch, so that a resumed run repeats it.
    """

    steps: NonNegativeInt = 0
    factor: Fraction = 0.001
    shape: Literal["linear", "constant"] = "linear"
    until_error: Fraction | None = None  # classifiers only

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if self.until_error is not None and self.steps:
            yield "until_error", f"got {self.until_error} beside steps {self.steps}, expected one of the two"


class EmaSettings(Settings):
    """Exponential moving average of the weights; evaluation uses it."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    ramp: bool = True  # min(decay, (1 + step) / (10 + step)), so that short runs profit too


class EarlyStopping(Settings):
    """Stop after `patience` evaluations without a better `best_metric`."""

    patience: PositiveInt


class StopOnNonFinite(Settings):
    """A loss or gradient that is not finite ends the run; the last checkpoint stays."""

    type: Literal["stop"] = "stop"


class RecoverOnNonFinite(Settings):
    """Back to the newest numbered checkpoint, from there on without the bad batch and with lr times `lr_factor`."""

    type: Literal["recover"]
    lr_factor: Annotated[float, Field(gt=0, le=1)] = 0.5  # each time: 0.25 after the second
    limit: PositiveInt = 3  # times in the whole run, restarts included; then the run stops


class TrainSettings(Settings):
    """The training run. `steps` or `epochs`, not both; milestones count in the same unit."""

    # Images per step, all accumulation steps and processes together. auto: reference_batch_size, in as few parts as
    # memory allows, so that a configuration trains alike on any machine (norms over batches see the parts, though). On
    # a GPU real steps on the largest images that the transforms make are tried, and may take nine tenths of its free
    # memory. On a CPU the tensors of steps with two and three such images are counted, and a part may need half of the
    # free memory. The numbers found stand in the run's configuration and are kept by --resume.
    batch_size: PositiveIntOrAuto
    reference_batch_size: PositiveInt | None = None  # lr, warm-up and steps are for this batch and scaled to the real
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    accumulate: PositiveInt = 1  # a batch is processed in this many parts; batch_size auto chooses it
    # With several processes (torchrun) each computes its share of every part. whole: the shares are padded alike and
    # their losses normalised as one, so that the number of processes changes nothing. parts: each pads and normalises
    # for itself, as torchvision and detectron2 do; then N processes equal one with N times the accumulate.
    across_processes: Literal["whole", "parts"] = "whole"
    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    optimizer: Annotated[SGDSettings | AdamWSettings, ByType()]
    schedule: Annotated[MultiStep | Cosine | Plateau | Constant, ByType()]
    warmup: Warmup = Warmup()
    clip_grad_norm: PositiveFloat | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    # The memory format of maps. auto: channels last, but on a GPU in half precision only; results differ by rounding.
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool = False
    ema: EmaSettings | None = None
    log_every: PositiveInt = 20  # steps
    eval_every: PositiveInt | None = None  # steps; None: after every epoch, and at the end
    val_loss: bool = False
    checkpoint_every: PositiveInt | None = None  # steps; None: at every evaluation
    # Numbered ones, beside last and best. The newest shares its bytes with last: a second one survives their damage.
    keep_checkpoints: PositiveInt = 2
    async_checkpoints: bool = False  # write them beside the training, from a copy in the host's memory
    best_metric: str | None = None  # decides on best.pt, plateau, early stopping; None: Config.best_metric
    early_stopping: EarlyStopping | None = None
    on_nonfinite: Annotated[StopOnNonFinite | RecoverOnNonFinite, ByType()] = StopOnNonFinite()
    # A batch that needs too much memory: split processes it once more in smaller parts, as train.accumulate would.
    on_oom: Literal["stop", "split"] = "stop"

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if (self.steps is None) == (self.epochs is None):
            found = "neither" if self.steps is None else f"both ({self.steps} and {self.epochs})"
            yield "steps", f"got {found} of steps and epochs, expected one; leave the other null"
        elif isinstance(self.schedule, MultiStep):
            yield from self._milestone_mistakes(self.schedule.milestones)
        if self.batch_size == "auto":
            yield from self._auto_mistakes()
        elif self.batch_size % self.accumulate:
            yield "accumulate", f"got {self.accumulate}, expected a divisor of batch_size ({self.batch_size})"

    def _auto_mistakes(self) -> Iterator[tuple[str, str]]:
        if self.reference_batch_size is None:
            text = "got auto without reference_batch_size, expected that too (train.reference_batch_size=16, say)"
            yield "batch_size", f"{text}: the batch that lr, warm-up and steps were chosen for, which auto keeps"
        if self.accumulate != 1:
            yield "accumulate", f"got {self.accumulate} with batch_size auto, expected 1: auto chooses it"

    @property
    def images_per_step(self) -> int:
        """The batch size as a number. Raises ValueError where it is still to be found."""
        if self.batch_size == "auto":
            raise ValueError("train.batch_size: got auto, expected a number here; set it by train.batch_size=N")
        return self.batch_size

    def _milestone_mistakes(self, milestones: list[float]) -> Iterator[tuple[str, str]]:
        end, unit = (self.steps, "steps") if self.steps is not None else (self.epochs, "epochs")
        if sorted(set(milestones)) != milestones:
            yield "schedule.milestones", f"got {milestones}, expected rising numbers"
        elif end is not None and milestones and milestones[-1] >= end:
            example = ",".join(f"{end * share:g}" for share in (0.5, 0.75))
            text = f"got {milestones}, expected all before the end of training ({end} {unit}); a run of another length "
            text += f"needs milestones of its own, such as train.schedule.milestones=[{example}]"
            yield "schedule.milestones", text


class CenterProtocol(Settings):
    """One view of each image: what data.eval_transforms make of it."""

    type: Literal["center"] = "center"


class TenCropProtocol(Settings):
    """Shorter side to `resize`, then the corners and the centre, `size` x `size`, and their mirror images."""

    type: Literal["ten_crop"]
    resize: PositiveInt = 256
    size: PositiveInt = 224

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if self.resize < self.size:
            yield "resize", f"got {self.resize}, expected at least size ({self.size})"


class MultiScaleProtocol(Settings):
    """Whole images with the shorter side at each of `scales`, by option with their mirror images (ResNet, 3.4)."""

    type: Literal["multi_scale"]
    scales: Annotated[list[PositiveInt], Field(min_length=1)] = [224, 256, 384, 480, 640]
    flip: bool = True

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if len(set(self.scales)) < len(self.scales):
            yield "scales", f"got {self.scales}, expected each scale once"


class EvalSettings(Settings):
    """Evaluation."""

    metric: Literal["coco", "voc", "classification", "localization"] = "coco"
    # Of classifiers. Probabilities are averaged over the views; all but center replace data.eval_transforms.
    protocol: Annotated[CenterProtocol | TenCropProtocol | MultiScaleProtocol, ByType()] = CenterProtocol()
    batch_size: PositiveInt = 1
    classifier: str | None = None  # of a localizer: a classifier's checkpoint that names the classes to be found (the
    # paper); null: the localizer's own scores do
    max_detections: Annotated[list[PositiveInt], Field(min_length=3, max_length=3)] = [1, 10, 100]
    # What computes COCO's metrics: the same numbers to the last bit. auto: numpy, the fast one.
    backend: Literal["auto", "numpy", "pycocotools"] = "auto"
    voc_iou_thresholds: Annotated[list[Fraction], Field(min_length=1)] = [0.5]
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    inference: InferenceSettings = InferenceSettings()
    # Of detectors, around any checkpoint; true stands for the defaults of each.
    box_refinement: Switch[BoxRefinementSettings] = None
    multi_scale: Switch[MultiScaleSettings] = None
    augment: Switch[AugmentSettings] = None
    dense: Switch[DenseSettings] = None  # of localizers

    @property
    def test_time(self) -> dict[str, Settings]:
        """The systems around a detector or localizer that are switched on, by name."""
        found = {name: getattr(self, name) for name in ("box_refinement", "multi_scale", "augment", "dense")}
        return {name: settings for name, settings in found.items() if settings is not None}

    @property
    def main_metric(self) -> str:
        """The metric by which results of this kind are usually compared."""
        if self.metric == "voc":
            return "AP50" if 0.5 in self.voc_iou_thresholds else "AP"
        return {"coco": "AP", "classification": "top1", "localization": "loc_given_class"}[self.metric]

    @property
    def metric_names(self) -> list[str]:
        """The metrics of this kind of evaluation of which more is better."""
        if self.metric == "classification":
            return ["top1", "top5"]
        if self.metric == "localization":
            return ["loc_given_class", "loc_top1", "loc_top5", "top1", "top5"]
        if self.metric == "coco":
            recalls = [f"AR{limit}" for limit in sorted(set(self.max_detections))]
            return ["AP", "AP50", "AP75", "APs", "APm", "APl", *recalls, "ARs", "ARm", "ARl"]
        names = ["AP", *(f"AP{100 * threshold:g}" for threshold in self.voc_iou_thresholds)]
        return [name + suffix for name in names for suffix in ("", "_11point")]
