"""Classifiers judged by several views and as ensembles, at the level of the command, against loops with Pillow."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from detres.config import config_to_dict, load_config
from detres.engine.checkpoint import save_checkpoint
from tests.classifier.test_protocols import as_ours, pictures, probabilities, ten_views, torchvision_network
from tests.jobs.conftest import Outcome, Workshop, run_detres

NAMES = ("ant", "bee", "cat")
SIZES = ((50, 67), (67, 50), (41, 41), (90, 45), (45, 67), (50, 67))
CONFIG = """\
model: {type: classifier, backbone: {type: resnet, depth: 18, out_features: [c5]}}
data:
  train: {type: image_folder, root: photos}
  val: {type: image_folder, root: photos}
  eval_transforms: [{type: resize, height: 40, width: 40}]
  workers: 0
train: {batch_size: 2, steps: 1, optimizer: {type: sgd, lr: 0.1}, schedule: {type: constant}}
eval: {metric: classification, batch_size: 4}
device: cpu
"""


@dataclass(frozen=True)
class Lab:
    """Six pictures of three classes, and three networks with their checkpoints a.pt, b.pt and turned.pt.

    turned.pt is b.pt with its classes in reverse order.
    """

    folder: Path
    config: Path
    networks: dict[str, nn.Module]

    def files(self) -> list[Path]:
        return sorted((self.folder / "photos").glob("*/*.png"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    torch.manual_seed(3)
    for number, picture in enumerate(pictures(*SIZES)):
        file = folder / "photos" / NAMES[number // 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file)
    config = folder / "lab.yaml"
    config.write_text(CONFIG)
    networks = {name: torchvision_network(3) for name in ("a", "b")}
    for name, network in networks.items():
        _save(folder / f"{name}.pt", network, config, NAMES)
    turned = {**networks["b"].state_dict()}
    turned |= {key: turned[key].flip(0) for key in ("fc.weight", "fc.bias")}
    networks["turned"] = torchvision_network(3)
    networks["turned"].load_state_dict(turned)
    _save(folder / "turned.pt", networks["turned"], config, NAMES[::-1])
    return Lab(folder, config, networks)


@pytest.fixture
def evaluate(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`detres eval ...` on the lab's pictures."""
    monkeypatch.setenv("DETRES_DATASETS", str(lab.folder))
    return lambda *arguments: run_detres("eval", *arguments)


def _save(path: Path, network: nn.Module, config: Path, names: tuple[str, ...], **changes: Any) -> None:
    settings = config_to_dict(load_config(config).config)
    state = as_ours(network).state_dict()
    header = {"kind": "classifier", "config": {**settings, **changes}, "class_names": list(names)}
    save_checkpoint(path, {**header, "model": dict(state), "ema": None})


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _found(folder: Path) -> torch.Tensor:
    """The probabilities of predictions.csv, (M, K): images by name (they come in the order of a model's classes)."""
    places, rows = range(1, len(NAMES) + 1), sorted(_rows(folder), key=lambda row: row["image_id"])
    tables = [{row[f"class_{k}"]: float(row[f"probability_{k}"]) for k in places} for row in rows]
    return torch.tensor([[table[name] for name in NAMES] for table in tables])


def _shorter_side(file: Path, length: int) -> Image.Image:
    picture = Image.open(file)
    scale = length / min(picture.size)
    size = tuple(int(scale * side + 0.5) for side in picture.size)
    return picture.resize(size, Image.Resampling.BILINEAR)


def test_ten_crops(lab: Lab, evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = evaluate(
        *("--config", lab.config, "--weights", lab.folder / "a.pt", "eval.protocol.type=ten_crop"),
        *("eval.protocol.resize=38", "eval.protocol.size=32", "--output", tmp_path),
    )
    assert outcome.code == 0, outcome.err
    network = lab.networks["a"]
    expected = [probabilities(network, ten_views(_shorter_side(file, 38), 32)) for file in lab.files()]
    torch.testing.assert_close(_found(tmp_path), torch.stack(expected), rtol=0, atol=0.01)  # pixels differ by 1
    whole = [probabilities(network, [_shorter_side(file, 38)]) for file in lab.files()]
    assert (torch.stack(expected) - torch.stack(whole)).abs().max() > 0.05, "or else the test tells nothing"


def test_several_scales_with_mirror_images(lab: Lab, evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    scales = (32, 40, 64)
    outcome = evaluate(
        *("--config", lab.config, "--weights", lab.folder / "a.pt", "--output", tmp_path),
        f"eval.protocol={{type: multi_scale, scales: {list(scales)}}}",
    )
    assert outcome.code == 0, outcome.err
    views = [[_shorter_side(file, scale) for scale in scales] for file in lab.files()]
    expected = [probabilities(lab.networks["a"], [*each, *map(ImageOps.mirror, each)]) for each in views]
    torch.testing.assert_close(_found(tmp_path), torch.stack(expected), rtol=0, atol=0.01)
    one = [probabilities(lab.networks["a"], each[:1]) for each in views]
    assert (torch.stack(expected) - torch.stack(one)).abs().max() > 0.05
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["protocol"] == {"type": "multi_scale", "scales": [32, 40, 64], "flip": True}
    labels = torch.arange(6) // 2
    loss = -torch.stack(expected).log()[torch.arange(6), labels].mean()
    assert results["metrics"]["loss"] == pytest.approx(loss.item(), abs=0.05)


def test_an_ensemble_brings_classes_into_one_order(lab: Lab, evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    single: dict[str, torch.Tensor] = {}
    for name in ("a", "b", "turned"):
        weights = lab.folder / f"{name}.pt"
        assert evaluate("--config", lab.config, "--weights", weights, "--output", tmp_path / name).code == 0
        single[name] = _found(tmp_path / name)
    torch.testing.assert_close(single["b"], single["turned"], rtol=0, atol=2e-6)
    files = [lab.folder / f"{name}.pt" for name in ("a", "turned", "b")]
    outcome = evaluate("--config", lab.config, "--weights", *files, "eval.batch_size=2", "--output", tmp_path / "all")
    assert outcome.code == 0, outcome.err
    expected = (single["a"] + 2 * single["b"]) / 3
    torch.testing.assert_close(_found(tmp_path / "all"), expected, rtol=0, atol=3e-6)
    assert (single["a"] - single["b"]).abs().max() > 0.05


def test_members_of_other_architectures_and_bare_state_dicts(
    lab: Lab, evaluate: Callable[..., Outcome], tmp_path: Path
) -> None:
    torch.save(dict(as_ours(lab.networks["b"]).state_dict()), tmp_path / "bare.pth")
    override = "model.backbone={type: cifar_resnet, depth: 8}"
    assert run_detres("pretrain", "--config", lab.config, override, f"output={tmp_path}/small").code == 0
    files = [lab.folder / "a.pt", tmp_path / "small" / "last.pt", tmp_path / "bare.pth"]
    outcome = evaluate("--config", lab.config, "--weights", *files, "--output", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert len(_rows(tmp_path / "out")) == 6


def test_without_a_configuration_the_checkpoints_own_counts(
    lab: Lab, evaluate: Callable[..., Outcome], tmp_path: Path
) -> None:
    weights = lab.folder / "a.pt"
    assert evaluate("--config", lab.config, "--weights", weights, "--output", tmp_path / "named").code == 0
    outcome = evaluate("--weights", weights, "eval.batch_size=3", "--output", tmp_path / "own")
    assert outcome.code == 0, outcome.err
    torch.testing.assert_close(_found(tmp_path / "own"), _found(tmp_path / "named"), rtol=0, atol=2e-6)
    torch.save(dict(as_ours(lab.networks["b"]).state_dict()), tmp_path / "bare.pth")
    assert "--config" in evaluate("--weights", tmp_path / "bare.pth").err
    assert "expected a file" in evaluate("--weights", "eval.batch_size=3").err
    assert "add --config" in evaluate("--detections", tmp_path / "rows.json").err


def test_a_checkpoint_that_names_classes_to_import_is_not_trusted(
    lab: Lab, evaluate: Callable[..., Outcome], tmp_path: Path
) -> None:
    data = config_to_dict(load_config(lab.config).config)["data"]
    data["val"] = {"type": "some_module:Set", "args": {}}
    _save(tmp_path / "outside.pt", lab.networks["a"], lab.config, NAMES, data=data)
    outcome = evaluate("--weights", tmp_path / "outside.pt")
    assert outcome.code == 1 and "some_module:Set" in outcome.err and "--trust-code" in outcome.err
    outcome = evaluate("--weights", tmp_path / "outside.pt", "--trust-code")
    assert outcome.code == 1 and "cannot import" in outcome.err


def test_files_that_do_not_fit_are_named(
    lab: Lab, evaluate: Callable[..., Outcome], workshop: Workshop, tmp_path: Path
) -> None:
    _save(tmp_path / "cow.pt", lab.networks["b"], lab.config, ("ant", "bee", "cow"))
    both = ("--weights", lab.folder / "a.pt", tmp_path / "cow.pt", "--output", tmp_path / "out")
    outcome = evaluate("--config", lab.config, *both)
    assert outcome.code == 1 and "cow.pt" in outcome.err and "'cat', 'cow'" in outcome.err
    detector = workshop.runs / "tiny" / "best.pt"
    outcome = evaluate("--config", lab.config, "--weights", lab.folder / "a.pt", detector)
    assert outcome.code == 1 and "holds a detector" in outcome.err
    outcome = evaluate("--config", workshop.config, "--weights", detector, lab.folder / "a.pt")
    assert outcome.code == 1 and "holds a classifier, expected a detector" in outcome.err
    torch.save(dict(as_ours(torchvision_network(5)).state_dict()), tmp_path / "five.pth")
    outcome = evaluate("--config", lab.config, "--weights", tmp_path / "five.pth")
    assert outcome.code == 1 and "five.pth" in outcome.err and "3 classes" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("eval.protocol={type: ten_crop, resize: 200}", "eval.protocol.resize"),
        ("eval.protocol={type: multi_scale, scales: [224, 224]}", "eval.protocol.scales"),
        ("eval.protocol={type: five_crop}", "eval.protocol"),
    ],
)
def test_impossible_protocols(lab: Lab, evaluate: Callable[..., Outcome], override: str, key: str) -> None:
    outcome = evaluate("--config", lab.config, "--weights", lab.folder / "a.pt", override)
    assert outcome.code == 1 and key in outcome.err


def test_detectors_have_one_view(workshop: Workshop) -> None:
    outcome = run_detres("config", "show", "--config", workshop.config, "eval.protocol.type=ten_crop")
    assert outcome.code == 1 and "eval.protocol.type" in outcome.err and "for classifiers" in outcome.err


def test_files_of_an_evaluation(lab: Lab, evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = evaluate("--config", lab.config, "--weights", lab.folder / "a.pt", "--output", tmp_path)
    assert outcome.code == 0 and "most frequent mistakes" in outcome.out, outcome.err
    rows, results = _rows(tmp_path), json.loads((tmp_path / "results.json").read_text())
    assert [row["image_id"] for row in rows] == [f"{NAMES[i // 2]}/{i}.png" for i in range(6)]
    counts = [[sum(r["label"] == t and r["predicted"] == p for r in rows) for p in NAMES] for t in NAMES]
    assert results["confusion_matrix"] == counts and sum(map(sum, counts)) == 6
    assert results["metrics"]["top1"] == pytest.approx(sum(counts[k][k] for k in range(3)) / 6)
    assert all(row["predicted"] == row["class_1"] and "class_4" not in row for row in rows)
    for name in ("confusion.png", "mistakes.png"):
        assert Image.open(tmp_path / name).width > 300 and str(tmp_path / name) in outcome.out


def test_an_unreadable_image_is_left_out_at_every_scale(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in lab.files():
        copy = tmp_path / "photos" / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes() if file.name != "2.png" else b"no picture")
    monkeypatch.setenv("DETRES_DATASETS", str(tmp_path))
    outcome = run_detres(
        *("eval", "--config", lab.config, "--weights", lab.folder / "a.pt", "--output", tmp_path / "out"),
        *("data.on_bad_image=skip", "eval.protocol={type: multi_scale, scales: [32, 40]}"),
    )
    assert outcome.code == 0 and "2.png" in outcome.err, outcome.err
    assert [row["image_id"] for row in _rows(tmp_path / "out")] == [f"{NAMES[i // 2]}/{i}.png" for i in (0, 1, 3, 4, 5)]


def test_training_is_judged_by_the_protocol_too(workshop: Workshop, detres: Callable[..., Outcome]) -> None:
    run = workshop.runs / "pretrain_ten_crop"
    protocol = "eval.protocol={type: ten_crop, resize: 24, size: 20}"
    outcome = detres("pretrain", "--config", workshop.pretrain_config, protocol, f"output={run}", "train.val_loss=true")
    assert outcome.code == 0, outcome.err
    assert detres("eval", "--weights", run / "best.pt", "--output", run / "again").code == 0
    first, again = (json.loads((run / name / "results.json").read_text()) for name in ("eval", "again"))
    assert first["metrics"] == again["metrics"] and again["protocol"]["size"] == 20
