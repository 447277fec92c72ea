"""The root of the configuration: what a YAML file may say."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detres.config.classification_steps import UNFOLLOWED_BY_BOXES
from detres.config.data import CLASSIFICATION_DATASETS, DataSettings, OutsideDataset
from detres.config.fields import ByType, NonNegativeInt, Settings
from detres.config.localizer import LocalizerSettings
from detres.config.model import ClassifierSettings, FasterRCNNSettings
from detres.config.train import EvalSettings, TrainSettings

_METRICS = {  # what may judge the networks
    "faster_rcnn": ["coco", "voc"],
    "classifier": ["classification"],
    "localizer": ["localization"],
}
_KINDS: dict[str, Literal["detector", "classifier", "localizer"]] = {
    "faster_rcnn": "detector",
    "classifier": "classifier",
    "localizer": "localizer",
}
_SEVERAL_VIEWS = {"detector": "augment", "classifier": "protocol", "localizer": "dense"}
_DETECTION_DATASETS = "coco, voc, own, imagenet_loc or box_lists"
_RESIZES = ("resize_shortest", "resize")


class Config(Settings):
    """A whole run: the model, its data, how it is trained and how it is judged."""

    model: Annotated[FasterRCNNSettings | ClassifierSettings | LocalizerSettings, ByType()]
    data: DataSettings
    train: TrainSettings
    eval: EvalSettings = EvalSettings()
    seed: NonNegativeInt = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    output: str = "runs/{name}"  # the run directory; {name} is the name of the config file

    @property
    def best_metric(self) -> str:
        """What decides on the best checkpoint: train.best_metric, or else the main metric of the evaluation."""
        return self.train.best_metric or self.eval.main_metric

    @property
    def kind(self) -> Literal["detector", "classifier", "localizer"]:
        """What a checkpoint of this model is called."""
        return _KINDS[self.model.type]

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        losses = [f"val_{name}" for name in _loss_names(self.model)]
        known = [*self.eval.metric_names, *(losses if self.train.val_loss else [])]
        if self.best_metric not in known:
            remedy = "; set train.val_loss to true to use it" if self.best_metric in losses else ""
            yield "train.best_metric", f"got {self.best_metric!r}, expected one of {', '.join(known)}{remedy}"
        classifies = isinstance(self.model, ClassifierSettings)
        if self.train.warmup.until_error is not None and not classifies:
            text = f"got {self.train.warmup.until_error}, expected null: a {self.kind} has no training error"
            yield "train.warmup.until_error", text
        yield from self._transform_mistakes() if not classifies else ()
        if self.eval.metric not in (wanted := _METRICS[self.model.type]):
            text = f"got {self.eval.metric!r}, expected {' or '.join(wanted)} with model.type {self.model.type}"
            yield "eval.metric", text
        if not classifies and self.eval.protocol.type != "center":
            text = f"got {self.eval.protocol.type!r}, expected center: several views are for classifiers"
            yield "eval.protocol.type", text
        for key in self.eval.test_time:
            wanted_kind, views = "localizer" if key == "dense" else "detector", _SEVERAL_VIEWS[self.kind]
            if wanted_kind != self.kind:
                text = f"got settings, expected null: it is for {wanted_kind}s; several views of a {self.kind} are "
                yield f"eval.{key}", f"{text}eval.{views}"
        if self.eval.classifier is not None and not isinstance(self.model, LocalizerSettings):
            text = f"got {self.eval.classifier!r}, expected null: only a localizer lets a classifier name the classes"
            yield "eval.classifier", text
        yield from self._dataset_mistakes(classifies)

    def _transform_mistakes(self) -> Iterator[tuple[str, str]]:
        """Steps that harm boxes, or their way back into the original image."""
        for key in ("train_transforms", "eval_transforms"):
            for index, step in enumerate(getattr(self.data, key)):
                if step.type in UNFOLLOWED_BY_BOXES:
                    text = f"got {step.type!r}, expected a step that moves boxes too, such as type albumentations"
                    yield f"data.{key}.{index}.type", text
        for index, step in enumerate(self.data.eval_transforms if isinstance(self.model, LocalizerSettings) else ()):
            if step.type not in _RESIZES:
                text = f"got {step.type!r}, expected {' or '.join(_RESIZES)}: boxes are to come back into the whole "
                yield f"data.eval_transforms.{index}.type", f"{text}image; model.test_crop crops"

    def _dataset_mistakes(self, classifies: bool) -> Iterator[tuple[str, str]]:
        named = {f"train.{index}": dataset for index, dataset in enumerate(self.data.train)}
        named |= {"val": self.data.val} | ({"test": self.data.test} if self.data.test is not None else {})
        for name, dataset in named.items():
            if not isinstance(dataset, OutsideDataset) and classifies != isinstance(dataset, CLASSIFICATION_DATASETS):
                kinds = "image_folder, flat_images or cifar10" if classifies else _DETECTION_DATASETS
                text = f"got {dataset.type!r}, expected {kinds} (or module:Class) with model.type {self.model.type}"
                yield f"data.{name}.type", text


def _loss_names(model: FasterRCNNSettings | ClassifierSettings | LocalizerSettings) -> list[str]:
    """What the network's losses are called in a validation."""
    if isinstance(model, ClassifierSettings):
        return ["loss", "loss_cls"]
    if isinstance(model, LocalizerSettings):
        return ["loss", "loss_loc_class", "loss_loc_box"]
    cascade = model.roi_heads.cascade
    stages = [""] if cascade is None else [f"_{number}" for number in range(1, len(cascade.positive_ious) + 1)]
    second = [f"{name}{stage}" for stage in stages for name in ("loss_classifier", "loss_box")]
    return ["loss", "loss_rpn_objectness", "loss_rpn_box", *second]
