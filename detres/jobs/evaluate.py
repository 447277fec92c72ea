"""The evaluation job: a model over a data set, its metrics, and the files that tell of them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from detres import build
from detres.api import choose_device
from detres.config import Config
from detres.data.annotations import DetectionDataset
from detres.data.image_io import ImageError, read_image
from detres.engine.progress import build_reporter
from detres.evaluation.classification import ClassificationMetrics, evaluate_classification
from detres.evaluation.coco import evaluate_coco
from detres.evaluation.inference import classify_all, predict_all
from detres.evaluation.metrics import DetectionMetrics
from detres.evaluation.report import Comparison, plot_class_ap, plot_precision_recall, save_comparison_grid
from detres.evaluation.results import (
    coco_results,
    detections_from_results,
    read_coco_results,
    write_coco_results,
    write_results_json,
    write_voc_comp4,
)
from detres.evaluation.voc import evaluate_voc
from detres.structures import Detections
from detres.structures.atomic_file import require_writable
from detres.weights.load import is_counter, load_weights
from detres.weights.report import WeightsError
from detres.weights.sources import read_state_dict

NUM_PICTURES = 12


@dataclass(frozen=True)
class Evaluation:
    """Metrics, and for a detector what it found in each image of the set."""

    metrics: DetectionMetrics | ClassificationMetrics
    detections: list[Detections]


class Evaluator:
    """Judges models on one data set, as often as wanted; call it with a model."""

    def __init__(self, config: Config, dataset: build.AnyDataset, device: torch.device) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.loader = build.build_eval_loader(config, dataset)

    def __call__(self, model: nn.Module, progress: Callable[[int], None] | None = None) -> Evaluation:
        """Run the model over all images and compute the metric of `eval.metric`."""
        options: dict[str, Any] = {
            "device": self.device,
            "precision": self.config.eval.precision,
            "progress": progress,
            "image_ids": image_ids(self.dataset),  # so that images that are skipped by option are not taken for others
        }
        if self.config.eval.metric == "classification":
            logits, labels = classify_all(model, self.loader, **options)
            return Evaluation(evaluate_classification(logits, labels, self.dataset.class_names), [])
        detections = predict_all(model, self.loader, class_names=self.dataset.class_names, **options)
        return Evaluation(self.judge(detections), detections)

    def judge(self, detections: Sequence[Detections]) -> DetectionMetrics:
        """The metrics of detections, one entry per image of the set."""
        dataset = cast(DetectionDataset, self.dataset)
        if self.config.eval.metric == "voc":
            truth = [dataset.annotations(i) for i in range(len(dataset))]
            thresholds = self.config.eval.voc_iou_thresholds
            return evaluate_voc(truth, detections, dataset.class_names, iou_thresholds=thresholds)
        return self.judge_rows(coco_results(detections, image_ids(dataset), dataset.category_ids))

    def judge_rows(self, rows: Sequence[Mapping[str, Any]]) -> DetectionMetrics:
        """COCO's metrics of the rows of a results file."""
        truth = cast(DetectionDataset, self.dataset).ground_truth_coco()
        return evaluate_coco(truth, rows, max_detections=self.config.eval.max_detections)


def image_ids(dataset: build.AnyDataset) -> list[Any]:
    """The data set's own id of every image, in order."""
    return [dataset.image_id(i) for i in range(len(dataset))]


def evaluate(
    config: Config, *, weights: str | None = None, detections: str | None = None, split: str = "val", output: Path
) -> tuple[Evaluation, list[Path]]:
    """Evaluate `weights`, or an existing COCO results file `detections`, on a split.

    Returns the evaluation and the files written into the folder `output`.
    Raises ValueError (or a kind of it) that names the file when weights, results or data do not fit.
    """
    require_writable(output, "choose another one by --output")
    device = choose_device(config.device)
    if detections is not None:
        evaluator = _evaluator_alone(config, split, device)
        dataset = cast(DetectionDataset, evaluator.dataset)
        rows = read_coco_results(detections)
        found = detections_from_results(rows, image_ids(dataset), dataset.category_ids, dataset.class_names)
        # COCO's metrics take the rows themselves: Detections hold single precision, which moves boxes and makes ties.
        metrics = evaluator.judge(found) if config.eval.metric == "voc" else evaluator.judge_rows(rows)
        evaluation = Evaluation(metrics, found)
    else:
        assert weights is not None, "evaluate needs weights or detections"
        model, class_names = _load_model(config, weights, split)
        evaluator = Evaluator(config, build.build_eval_dataset(config, class_names, split), device)
        with build_reporter(len(evaluator.dataset)) as reporter:
            evaluation = evaluator(model.to(device), reporter.advance)
    absent = detections is not None  # a results file can be judged where the images are not
    return evaluation, write_evaluation(evaluation, evaluator, output, split, images_may_be_absent=absent)


def _evaluator_alone(config: Config, split: str, device: torch.device) -> Evaluator:
    """An evaluator whose classes are those of the set itself."""
    settings = config.data.val if split == "val" else config.data.test
    if settings is None:
        raise ValueError(f"data.{split}: the configuration has no {split} set; evaluate on another one")
    return Evaluator(config, build.build_dataset(settings, config.data.on_bad_box), device)


def _load_model(config: Config, weights: str, split: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The config's model with the tensors of `weights`, whose class names count where the file has any."""
    found = read_state_dict(weights)
    names = found.class_names
    if not names:
        settings = config.data.val if split == "val" or config.data.test is None else config.data.test
        names = build.build_dataset(settings, config.data.on_bad_box).class_names
    model = build.build_model(config, len(names))
    report = load_weights(
        model,
        found.state_dict,
        class_names=names,
        source_class_names=found.class_names,
        source_background=found.background,
        source=found.source,
    )
    own = model.state_dict()
    if unfilled := [key for key in report.keys("missing", "skipped") if key in own and not is_counter(key)]:
        raise WeightsError(
            f"{weights}: does not fill {len(unfilled)} tensors of the model ({', '.join(unfilled[:4])}), which has "
            f"{len(names)} classes; evaluating it would judge random numbers. Use weights trained for these classes"
        )
    return model, names


def write_evaluation(
    evaluation: Evaluation, evaluator: Evaluator, folder: Path, split: str, *, images_may_be_absent: bool = False
) -> list[Path]:
    """results.json, and of a detector its detections (VOC: as comp4 too), curves and pictures; returns the paths.

    `images_may_be_absent`: the pictures are then of the images whose files are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_results_json(folder / "results.json", evaluation.metrics.to_dict())
    written = [folder / "results.json"]
    if isinstance(evaluation.metrics, ClassificationMetrics):
        return written
    dataset, found = cast(DetectionDataset, evaluator.dataset), evaluation.detections
    write_coco_results(folder / "detections.json", found, image_ids(dataset), dataset.category_ids)
    if evaluator.config.eval.metric == "voc":
        write_voc_comp4(folder / "comp4", found, image_ids(dataset), dataset.class_names, split)
        written.append(folder / "comp4")
    plot_precision_recall(evaluation.metrics.curves, folder / "precision_recall.png")
    plot_class_ap(evaluation.metrics.per_class, folder / "class_ap.png", _class_metric(evaluation.metrics))
    skip_bad_images = evaluator.config.data.on_bad_image == "skip"
    comparisons = _comparisons(dataset, found, skip_bad_images, images_may_be_absent)
    save_comparison_grid(comparisons, folder / "pictures.png", class_names=dataset.class_names)
    names = ("detections.json", "precision_recall.png", "class_ap.png", "pictures.png")
    return [*written, *(folder / name for name in names)]


def _class_metric(metrics: DetectionMetrics) -> str:
    keys = metrics.per_class[0] if metrics.per_class else {}
    return "AP" if "AP" in keys else next((key for key in keys if key.startswith("AP")), "AP")


def _comparisons(
    dataset: DetectionDataset, detections: Sequence[Detections], skip_bad_images: bool, images_may_be_absent: bool
) -> list[Comparison]:
    """Truth and detections of images spread evenly over the set."""
    step = max(1, len(dataset) // NUM_PICTURES)
    pairs = []
    for i in range(0, len(dataset), step)[:NUM_PICTURES]:
        if images_may_be_absent and not Path(dataset.file(i)).exists():
            continue
        try:
            image = read_image(dataset.file(i), dataset.size_hw(i))
        except ImageError:
            if skip_bad_images:
                continue  # a warning told of it when the model met it
            raise
        truth = dataset.annotations(i)
        shown = ~truth.ignore
        pairs.append(
            Comparison(
                torch.from_numpy(image).permute(2, 0, 1),
                torch.as_tensor(truth.boxes_xyxy[shown]),
                torch.as_tensor(truth.labels[shown]),
                detections[i],
                title=str(dataset.image_id(i)),
            )
        )
    return pairs


def show(text: str) -> None:
    """Print for a person, at once."""
    print(text, file=sys.stdout, flush=True)
