"""The evaluation job: a model over a data set, its metrics, and the files that tell of them."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from detres import wiring
from detres.api import choose_device
from detres.config import Config
from detres.data.annotations import DatasetError, DetectionDataset
from detres.data.image_io import ImageError, read_image
from detres.data.loader import EvalLoader
from detres.data.localization import OneClassDataset
from detres.data.samples import ClassificationDataset
from detres.engine.distributed import join_processes
from detres.engine.progress import build_reporter
from detres.evaluation.classification import ClassificationMetrics, evaluate_classification
from detres.evaluation.coco import evaluate_coco
from detres.evaluation.inference import ImageScores, classify_all, predict_all
from detres.evaluation.localization import evaluate_localization
from detres.evaluation.metrics import DetectionMetrics
from detres.evaluation.report import Comparison, plot_class_ap, plot_precision_recall, save_comparison_grid
from detres.evaluation.result_arrays import ResultArrays
from detres.evaluation.results import read_result_arrays, write_coco_results, write_results_json, write_voc_comp4
from detres.evaluation.voc import evaluate_voc
from detres.files.atomic_file import require_writable
from detres.files.plain_text import printable_lines
from detres.jobs.classification_files import write_classification
from detres.jobs.eval_weights import load_networks
from detres.jobs.localization import AnyLocalizer, NamingClassifier, localize_all
from detres.jobs.protocols import original_loader, protocol_loaders, with_protocol
from detres.structures import Detections
from detres.structures.processes import ALONE, Processes
from detres.weights.imagenet import with_words

NUM_PICTURES = 12


@dataclass(frozen=True)
class Evaluation:
    """Metrics, and what a detector found in each image of the set, or how a classifier scored it."""

    metrics: DetectionMetrics | ClassificationMetrics
    detections: list[Detections]
    scores: ImageScores | None = None


class Evaluator:
    """Judges models on one data set, as often as wanted; call it with a model (in all `processes`, which share it).

    loader    the images as data.eval_transforms make them
    passes    how often a call goes through the set: once for each size at which eval.protocol sees it
    """

    def __init__(
        self, config: Config, dataset: wiring.AnyDataset, device: torch.device, processes: Processes = ALONE
    ) -> None:
        self.config, self.dataset, self.device, self.processes = config, dataset, device, processes
        self.loader = wiring.build_eval_loader(config, dataset)
        self._protocol_loaders = protocol_loaders(config, dataset)
        named_by = config.eval.classifier
        self._naming = None if named_by is None else NamingClassifier(config, named_by, dataset)
        self.passes = len(self._protocol_loaders) + (self._naming is not None)

    def __call__(self, model: nn.Module, progress: Callable[[int], None] | None = None) -> Evaluation:
        """Run a copy of the model, made fast by eval.inference, and compute `eval.metric` in the main process."""
        model = wiring.for_inference(model, self.config)
        options: dict[str, Any] = {
            "device": self.device,
            "processes": self.processes,
            "progress": progress if progress is None else partial(self._advance_all, progress),
            "image_ids": image_ids(self.dataset),  # so that images that are skipped by option are not taken for others
        }
        if self.config.eval.metric == "classification":
            scores = self._classify(model, options)
            names = self.dataset.class_names
            metrics = self.processes.from_main(lambda: evaluate_classification(scores.logits, scores.labels, names))
            return Evaluation(metrics, [], scores)
        network = wiring.with_test_time(model, self.config)
        loader = original_loader(self.config, self.dataset) if wiring.resizes_itself(network) else self.loader
        if self.config.eval.metric == "localization":
            return self._localize(cast(AnyLocalizer, network), loader, options)
        detections = predict_all(network, loader, class_names=self.dataset.class_names, **options)
        return Evaluation(self.processes.from_main(lambda: self.judge(detections)), detections)

    def _advance_all(self, progress: Callable[[int], None], done: int) -> None:
        """Of the images of all processes, while this one has done `done` of its share of a pass (about equal ones)."""
        passed, here = divmod(done, max(1, len(self.dataset)))
        progress(passed * len(self.dataset) + min(here * self.processes.world_size, len(self.dataset)))

    def _classify(self, model: nn.Module, options: dict[str, Any]) -> ImageScores:
        """Logits; of several views, the logarithms of their mean probabilities."""
        scorer, progress = with_protocol(model, self.config), options.pop("progress")

        def scores_of(number: int) -> ImageScores:
            shown = None if progress is None else partial(_advance, progress, number * len(self.dataset))
            return classify_all(scorer, self._protocol_loaders[number], progress=shown, **options)

        total = reduce(_sum_of_probabilities, map(scores_of, range(self.passes)))  # two passes in memory, not all
        return total._replace(logits=total.logits - math.log(self.passes))

    def _localize(self, model: AnyLocalizer, loader: EvalLoader, options: dict[str, Any]) -> Evaluation:
        """The boxes of the best classes, and of each image's own."""
        dataset, classes = cast(OneClassDataset, self.dataset), None
        if self._naming is not None:
            classes = self._naming.name_all(**options)
            if (progress := options["progress"]) is not None:
                options = {**options, "progress": partial(_advance, progress, len(dataset))}
        found = localize_all(model, loader, dataset, classes=classes, **options)
        metrics = self.processes.from_main(lambda: self.judge(found.predictions, found.given))
        return Evaluation(metrics, found.predictions)

    def judge(self, detections: Sequence[Detections], given: Sequence[Detections] | None = None) -> DetectionMetrics:
        """The metrics of detections, one entry per image of the set; `given`: see evaluate_localization."""
        dataset = cast(DetectionDataset, self.dataset)
        if self.config.eval.metric == "localization":
            truth = [dataset.annotations(i) for i in range(len(dataset))]
            return evaluate_localization(truth, detections, dataset.class_names, given=given)
        if self.config.eval.metric == "voc":
            truth = [dataset.annotations(i) for i in range(len(dataset))]
            thresholds = self.config.eval.voc_iou_thresholds
            return evaluate_voc(truth, detections, dataset.class_names, iou_thresholds=thresholds)
        return self.judge_arrays(ResultArrays.from_detections(detections, image_ids(dataset), dataset.category_ids))

    def judge_arrays(self, results: ResultArrays) -> DetectionMetrics:
        """COCO's metrics of detections in arrays."""
        truth, settings = cast(DetectionDataset, self.dataset).ground_truth_coco(), self.config.eval
        return evaluate_coco(truth, results, max_detections=settings.max_detections, backend=settings.backend)


def _advance(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _sum_of_probabilities(one: ImageScores, other: ImageScores) -> ImageScores:
    """Log-probabilities of the same images in two passes, added up as probabilities."""
    assert torch.equal(one.rows, other.rows), "every pass sees the same images"
    return one._replace(logits=torch.logaddexp(one.logits, other.logits))


def _refuse_test_time(config: Config, detections: str) -> None:
    if names := [f"eval.{name}" for name in config.eval.test_time]:
        raise ValueError(
            f"{', '.join(names)}: got settings for the results file {detections}, expected false: no network runs "
            "that they could change; use --weights"
        )


def image_ids(dataset: wiring.AnyDataset) -> list[Any]:
    """The data set's own id of every image, in order."""
    return [dataset.image_id(i) for i in range(len(dataset))]


def evaluate(
    config: Config,
    *,
    weights: str | Sequence[str] = (),
    detections: str | None = None,
    split: str = "val",
    output: Path,
    trust_code: bool = False,
) -> tuple[Evaluation, list[Path]]:
    """Evaluate `weights` (several files: as an ensemble), or a COCO results file `detections`, on a split.

    Started by torchrun, its processes share the images, and the main one judges and writes.
    `trust_code`: whether checkpoints of an ensemble may name backbone classes to be imported.
    Returns the evaluation and the files written into the folder `output`.
    Raises ValueError (or a kind of it) that names the file when weights, results or data do not fit.
    """
    with join_processes(choose_device(config.device)) as (processes, device):
        processes.from_main(lambda: require_writable(output, "choose another one by --output"))
        if detections is not None:
            _refuse_test_time(config, detections)
            evaluation = _of_results(evaluator := _evaluator_alone(config, split, device), detections)
        else:
            assert weights, "evaluate needs weights or detections"
            files = [weights] if isinstance(weights, str) else list(weights)
            load = partial(load_networks, config, files, split, trust_code=trust_code)
            model, class_names = processes.from_main(load)
            dataset = _dataset_of_classes(config, class_names, split, files[0])
            evaluator = Evaluator(config, dataset, device, processes)
            with build_reporter(len(dataset) * evaluator.passes) as reporter:
                evaluation = evaluator(model.to(device), reporter.advance)
        absent = detections is not None  # a results file can be judged where the images are not
        write = partial(write_evaluation, evaluation, evaluator, output, split, images_may_be_absent=absent)
        return evaluation, processes.from_main(write)


def _of_results(evaluator: Evaluator, detections: str) -> Evaluation:
    """The evaluation of a COCO results file."""
    dataset = cast(DetectionDataset, evaluator.dataset)
    results = read_result_arrays(detections)
    found = results.to_detections(image_ids(dataset), dataset.category_ids, dataset.class_names, detections)
    # COCO's metrics take the file's numbers: Detections hold single precision, which moves boxes and makes ties.
    judged = evaluator.judge_arrays(results) if evaluator.config.eval.metric == "coco" else evaluator.judge(found)
    return Evaluation(judged, found)


def _dataset_of_classes(config: Config, class_names: Sequence[str], split: str, weights: str) -> wiring.AnyDataset:
    """The split with the classes that `weights` know; where they do not fit, the error names both."""
    try:
        return wiring.build_eval_dataset(config, class_names, split)
    except DatasetError as error:
        raise ValueError(f"{error}. The weights, {weights}, know {len(class_names)} classes") from error


def _evaluator_alone(config: Config, split: str, device: torch.device) -> Evaluator:
    """An evaluator whose classes are those of the set itself."""
    dataset = wiring.build_split(config, split)
    if config.eval.metric == "localization":
        dataset = OneClassDataset(cast(DetectionDataset, dataset), f"data.{split}")
    return Evaluator(config, dataset, device)


def write_evaluation(
    evaluation: Evaluation, evaluator: Evaluator, folder: Path, split: str, *, images_may_be_absent: bool = False
) -> list[Path]:
    """results.json, detections (VOC: as comp4 too) or predictions, curves and pictures; returns the paths.

    `images_may_be_absent`: the pictures are then of the images whose files are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = evaluator.config.eval
    views = {"test_time": {name: each.model_dump() for name, each in settings.test_time.items()}}
    if isinstance(evaluation.metrics, ClassificationMetrics):
        views = {"protocol": settings.protocol.model_dump()}
    write_results_json(
        folder / "results.json",
        {**evaluation.metrics.to_dict(), **{name: value for name, value in views.items() if value}},
    )
    written = [folder / "results.json"]
    if isinstance(evaluation.metrics, ClassificationMetrics):
        assert evaluation.scores is not None, "a classifier's evaluation keeps its scores"
        labelled = cast(ClassificationDataset, evaluator.dataset)
        return [*written, *write_classification(evaluation.metrics, evaluation.scores, labelled, folder)]
    dataset, found = cast(DetectionDataset, evaluator.dataset), evaluation.detections
    write_coco_results(folder / "detections.json", found, image_ids(dataset), dataset.category_ids)
    if evaluator.config.eval.metric == "voc":
        write_voc_comp4(folder / "comp4", found, image_ids(dataset), dataset.class_names, split)
        written.append(folder / "comp4")
    localises, names = evaluator.config.eval.metric == "localization", ["detections.json"]
    if not localises:
        plot_precision_recall(evaluation.metrics.curves, folder / "precision_recall.png")
        names.append("precision_recall.png")
    plot_class_ap(evaluation.metrics.per_class, folder / "class_ap.png", _class_metric(evaluation.metrics))
    skip_bad_images = evaluator.config.data.on_bad_image == "skip"
    shown = [each[:1] for each in found] if localises else found  # of a localizer the best class's box, however sure
    comparisons = _comparisons(dataset, shown, skip_bad_images, images_may_be_absent)
    options: dict[str, Any] = {"score_threshold": 0.0} if localises else {}
    words = with_words(dataset.class_names)
    save_comparison_grid(comparisons, folder / "pictures.png", class_names=words, **options)
    return [*written, *(folder / name for name in [*names, "class_ap.png", "pictures.png"])]


def _class_metric(metrics: DetectionMetrics) -> str:
    keys = metrics.per_class[0] if metrics.per_class else {}
    if metrics.kind == "localization":
        return "loc_top1" if metrics.metrics["loc_given_class"] is None else "loc_given_class"
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
    print(printable_lines(text), file=sys.stdout, flush=True)
