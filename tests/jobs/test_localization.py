"""A localizer from a configuration: trained on generated images, evaluated, loaded, asked; and what is refused."""

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detres
from detres import wiring
from detres.config import load_config
from detres.config.errors import ConfigError
from detres.engine.checkpoint import load_checkpoint, save_checkpoint
from tests.jobs.conftest import Outcome, run_detres

DENSE = "eval.dense={short: [40, 56]}"
COLORS = {"blue": (40, 60, 220), "red": (220, 40, 30)}
CONFIG = """\
model:
  type: localizer
  backbone: {type: resnet, depth: 18, out_features: [c3]}
  pixels: {size_divisibility: 1}
  anchors: {sizes: [16, 28], aspect_ratios: [1.0]}
  channels: 16
  sampling: {positive_iou: 0.5}
data:
  train: {type: box_lists, root: squares/images, boxes: squares/train.txt}
  val: {type: box_lists, root: squares/images, boxes: squares/val.txt}
  train_transforms:
    - {type: random_resized_crop, size: 48, scale: [0.7, 1.0]}
    - {type: horizontal_flip}
  aspect_ratio_grouping: false
  workers: 0
train:
  batch_size: 16
  steps: 40
  optimizer: {type: adamw, lr: 2e-3}
  schedule: {type: cosine}
  val_loss: true
eval: {metric: localization, batch_size: 10}
device: cpu
output: {RUNS}/{name}
"""
CLASSIFIER = """\
model: {type: classifier, backbone: {type: resnet, depth: 18, out_features: [c3]}, pixels: {size_divisibility: 1}}
data:
  train: {type: image_folder, root: squares/images}
  val: {type: image_folder, root: squares/images}
  workers: 0
train: {batch_size: 16, steps: 6, optimizer: {type: adamw, lr: 2e-3}, schedule: {type: constant}}
eval: {metric: classification, batch_size: 20}
device: cpu
output: {RUNS}/{name}
"""


def _write_squares(root: Path, count: int = 40) -> None:
    """Grey images of 48 x 48 with one square each, red or blue; the first ten are to validate."""
    rng = np.random.default_rng(1)
    lines = []
    for number in range(count):
        name = list(COLORS)[number % 2]
        image = rng.integers(110, 150, (48, 48, 3)).astype(np.uint8)
        side = int(rng.integers(14, 30))
        x, y = (int(rng.integers(0, 49 - side)) for _ in range(2))
        image[y : y + side, x : x + side] = COLORS[name]
        file = root / "images" / name / f"{name}_{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
        lines.append(f"{file.name} {x} {y} {x + side - 1} {y + side - 1}\n")
    (root / "val.txt").write_text("".join(lines[:10]))
    (root / "train.txt").write_text("".join(lines[10:]))


class Shop:
    """The folder of the tests, and the run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        _write_squares(folder / "squares")
        for name, text in (("squares", CONFIG), ("colors", CLASSIFIER)):
            (folder / f"{name}.yaml").write_text(text.replace("{RUNS}", str(self.runs)))
        self.config = folder / "squares.yaml"
        self.named = run_detres("pretrain", "--config", folder / "colors.yaml")
        weights = f"model.backbone.weights={self.runs}/colors/best.pt"
        self.trained = run_detres("train", "--config", self.config, weights)
        self.best = self.runs / "squares" / "best.pt"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETRES_DATASETS", str(folder))
        yield Shop(folder)


def _metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "results.json").read_text())["metrics"]


def test_training_lowers_the_errors(shop: Shop) -> None:
    assert shop.trained.code == 0, shop.trained.err
    config = load_config(shop.config).config
    dataset = wiring.build_eval_dataset(config, ("blue", "red"))
    from detres.jobs.evaluate import Evaluator

    before = Evaluator(config, dataset, torch.device("cpu"))(wiring.build_model(config, 2)).metrics.metrics
    after = _metrics(shop.runs / "squares" / "eval")
    assert before["error_given_class"] >= 0.7 and after["error_given_class"] <= 0.3
    assert after["error_top1"] <= 0.5 and after["mean_iou"] > before["mean_iou"] + 0.2
    rows = [json.loads(line) for line in (shop.runs / "squares" / "metrics.jsonl").read_text().splitlines()]
    assert {"loc_given_class", "error_top5", "val_loss_loc_box"} <= rows[-1].keys()
    made = {path.name for path in (shop.runs / "squares" / "eval").iterdir()}
    assert made == {"results.json", "detections.json", "class_ap.png", "pictures.png"}


def test_the_checkpoint_evaluates_to_the_same(shop: Shop, tmp_path: Path) -> None:
    done = run_detres("eval", "--weights", shop.best, "--output", tmp_path)
    assert done.code == 0, done.err
    assert _metrics(tmp_path) == pytest.approx(_metrics(shop.runs / "squares" / "eval"))
    results = tmp_path / "again"
    done = run_detres(
        "eval", "--config", shop.config, "--detections", tmp_path / "detections.json", "--output", results
    )
    assert done.code == 0, done.err
    again = _metrics(results)
    assert again["error_top1"] == _metrics(tmp_path)["error_top1"] and again["error_given_class"] is None


def test_a_classifier_names_the_classes(shop: Shop, tmp_path: Path) -> None:
    assert shop.named.code == 0, shop.named.err
    named_by = f"eval.classifier={shop.runs}/colors/best.pt"
    done = run_detres("eval", "--weights", shop.best, "--output", tmp_path, named_by)
    assert done.code == 0, done.err
    found, alone = _metrics(tmp_path), _metrics(shop.runs / "squares" / "eval")
    assert found["error_given_class"] == pytest.approx(alone["error_given_class"])
    classifier = detres.load(shop.runs / "colors" / "best.pt", "cpu")
    assert isinstance(classifier, detres.ImageClassifier)
    val = [line.split()[0] for line in (shop.folder / "squares" / "val.txt").read_text().splitlines()]
    files = [shop.folder / "squares" / "images" / name.split("_")[0] / name for name in val]
    right = [classifier.predict(file).name == file.parent.name for file in files]
    assert found["top1"] == pytest.approx(sum(right) / len(right))


def test_a_loaded_localizer_is_asked(shop: Shop, tmp_path: Path) -> None:
    localizer = detres.load(shop.best, "cpu")
    assert isinstance(localizer, detres.ImageLocalizer)
    files = sorted((shop.folder / "squares" / "images" / "red").iterdir())[:3]
    found = localizer.predict(files, batch_size=2)
    assert [sorted(each.names()) for each in found] == [["blue", "red"]] * 3
    given = localizer.predict(files[0], classes=["red"])
    assert given.names() == ["red"] and given.image is not None
    assert localizer.predict(files[0], classes="red").boxes_xyxy.tolist() == given.boxes_xyxy.tolist()
    with pytest.raises(ValueError, match="no class 'rad'; did you mean 'red'"):
        localizer.predict(files[0], classes=["rad"])
    with pytest.raises(ValueError, match="classes is empty"):
        localizer.predict(files[0], classes=[])
    assert localizer.predict([]) == []


def test_predictions_in_a_folder(shop: Shop, tmp_path: Path) -> None:
    source = shop.folder / "squares" / "images" / "blue"
    done = run_detres("predict", "--weights", shop.best, source, "--output", tmp_path, "--device", "cpu")
    assert done.code == 0 and "a class located in 20 images" in done.out, done.err
    entries = json.loads((tmp_path / "detections.json").read_text())["images"]
    assert len(entries) == 20 and len(entries[0]["detections"]) == 2
    assert len(list(tmp_path.glob("*_located.png"))) == 20
    only = tmp_path / "only"
    done = run_detres("predict", "--weights", shop.best, source, "--output", only, "--class", "red", "--device", "cpu")
    assert done.code == 0, done.err
    entries = json.loads((only / "detections.json").read_text())["images"]
    assert [row["name"] for entry in entries for row in entry["detections"]] == ["red"] * 20
    classifier = shop.runs / "colors" / "best.pt"
    done = run_detres("predict", "--weights", classifier, source, "--output", only, "--class", "red")
    assert done.code == 1 and "only a localizer" in done.err


def _refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 1
    for word in words:
        assert word in outcome.err


def test_what_is_refused(shop: Shop, tmp_path: Path) -> None:
    pretrain = run_detres("pretrain", "--config", shop.config)
    _refused(pretrain, "model.type is localizer", "train_net.py")
    convert = run_detres("convert", "--from", "detres", shop.best, "--to", "torchvision", tmp_path / "x.pth")
    _refused(convert, "holds a localizer")
    other = run_detres("eval", "--config", shop.config, "--weights", shop.runs / "colors" / "best.pt")
    _refused(other, "holds a classifier, but the configuration describes a localizer")
    named_by = run_detres("eval", "--weights", shop.best, "--output", tmp_path, f"eval.classifier={shop.best}")
    _refused(named_by, "holds a localizer, expected a classifier")
    _refused(run_detres("eval", "--weights", shop.best, shop.best, "--output", tmp_path), "no ensembles of localizers")
    config = load_config(shop.config, [f"model.weights={shop.best}"]).config
    with pytest.raises(ValueError, match=r"a localizer of 2 classes \(blue, red\), expected the 2 of the model"):
        wiring.load_initial_weights(wiring.build_model(config, 2), config, ("red", "blue"))
    assert wiring.load_initial_weights(wiring.build_model(config, 2), config, ("blue", "red"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.metric=coco", "got 'coco', expected localization with model.type localizer"),
        ("data.eval_transforms=[{type: center_crop, size: 32}]", "model.test_crop crops"),
        ("data.val={type: cifar10, root: x, split: val}", "expected coco, voc, own, imagenet_loc or box_lists"),
        ("eval.protocol={type: ten_crop}", "several views are for classifiers"),
        ("eval.box_refinement=true", "expected null: it is for detectors"),
        ("model.sampling.negative_iou=0.8", "expected at most positive_iou"),
        ("train.best_metric=AP", "expected one of loc_given_class, loc_top1"),
        ("model.anchors.sizes=[]", "anchors.sizes"),
    ],
)
def test_wrong_settings(shop: Shop, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(shop.config, [override])


def test_a_classifier_names_classes_of_localizers_only(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="only a localizer lets a classifier name"):
        load_config(shop.folder / "colors.yaml", ["eval.classifier=x.pt"])


def test_a_central_crop_is_a_setting_of_the_test(shop: Shop, tmp_path: Path) -> None:
    done = run_detres("eval", "--weights", shop.best, "--output", tmp_path, "model.test_crop=32")
    assert done.code == 0 and 0 < _metrics(tmp_path)["mean_iou"] < 1, done.err


def _found(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "detections.json").read_text())
    return rows


def test_dense_testing(shop: Shop, tmp_path: Path) -> None:
    """Off changes nothing; one size that is the image's own is the whole image; several are written down."""
    one_size = ("eval.dense={short: [48], flip: false}", "model.test_crop=32")
    runs = {"plain": (), "off": ("eval.dense=false",), "one": one_size, "several": (DENSE,)}
    for name, settings in runs.items():
        done = run_detres("eval", "--weights", shop.best, "--output", tmp_path / name, *settings)
        assert done.code == 0, done.err
    assert (tmp_path / "off" / "detections.json").read_bytes() == (tmp_path / "plain" / "detections.json").read_bytes()
    plain, one, several = (_found(tmp_path / name) for name in ("plain", "one", "several"))
    assert len(plain) == len(one) == len(several) == 20 and several != plain
    for expected, found in zip(plain, one, strict=True):
        assert (expected["image_id"], expected["category_id"]) == (found["image_id"], found["category_id"])
        assert found["score"] == pytest.approx(expected["score"], abs=1e-4)
        assert found["bbox"] == pytest.approx(expected["bbox"], abs=0.01)
    views = json.loads((tmp_path / "several" / "results.json").read_text())["test_time"]
    assert views == {"dense": {"short": [40, 56], "max": 2000, "flip": True, "voting_iou": 0.5}}
    named, named_by = tmp_path / "named", f"eval.classifier={shop.runs}/colors/best.pt"
    done = run_detres("eval", "--weights", shop.best, "--output", named, DENSE, named_by)
    assert done.code == 0, done.err
    assert _metrics(named)["mean_iou"] == pytest.approx(_metrics(tmp_path / "several")["mean_iou"])


def test_dense_prediction(shop: Shop, tmp_path: Path) -> None:
    """What eval finds densely, predict and the Python interface find, by overrides and from the checkpoint."""
    done = run_detres("eval", "--weights", shop.best, "--output", tmp_path / "eval", DENSE, "eval.batch_size=1")
    assert done.code == 0, done.err
    row = _found(tmp_path / "eval")[0]
    (x, y, width, height), file = row["bbox"], shop.folder / "squares" / "images" / row["image_id"]
    done = run_detres("predict", "--weights", shop.best, file, DENSE, "--output", tmp_path / "predict")
    assert done.code == 0, done.err
    best = json.loads((tmp_path / "predict" / "detections.json").read_text())["images"][0]["detections"][0]
    assert best["score"] == pytest.approx(row["score"], abs=1e-5)
    assert best["box_xyxy"] == pytest.approx([x, y, x + width, y + height], abs=1e-2)
    localizer = detres.load(shop.best, "cpu", overrides=[DENSE])
    assert isinstance(localizer, detres.ImageLocalizer)
    found, given = localizer.predict(file), localizer.predict([file] * 2, classes=[best["name"]], batch_size=2)[1]
    for each in (found, given):
        assert each.boxes_xyxy[0].tolist() == pytest.approx(best["box_xyxy"], abs=1e-2)
    state = load_checkpoint(shop.best)
    state["config"]["eval"]["dense"] = {"short": [40, 56]}
    save_checkpoint(tmp_path / "dense.pt", state)
    assert torch.equal(detres.load(tmp_path / "dense.pt", "cpu").predict(file).boxes_xyxy, found.boxes_xyxy)


def test_architecture(shop: Shop) -> None:
    with redirect_stderr(io.StringIO()):
        done = run_detres("architecture", "--config", shop.config)
    assert done.code == 0 and "2 x 1000 classes" in done.out, done.err


def test_the_doctor_looks_at_lists_of_boxes(shop: Shop, tmp_path: Path) -> None:
    outcome = run_detres("doctor", "--config", shop.config, "--output", tmp_path)
    assert outcome.code == 0, outcome.out + outcome.err
    assert "data.train: 30 images, 30 boxes, 2 classes" in outcome.out and "anchor" not in outcome.out


def test_finder_and_batch_size_know_localizers(shop: Shop, tmp_path: Path) -> None:
    auto = ("train.batch_size=auto", "train.reference_batch_size=4")
    outcome = run_detres("find-lr", "--config", shop.config, "--steps", "10", "--output", tmp_path, *auto)
    assert outcome.code == 0, outcome.err
    assert "4 images per step = " in outcome.out + outcome.err and "for batches of 4 images" in outcome.out
