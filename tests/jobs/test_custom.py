"""configs/custom.yaml on the user's own data: what is named is where the data lie, and nothing else."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import detres as package
from detres.engine.checkpoint import load_checkpoint
from tests.jobs.conftest import Outcome, run_detres

TINY = [  # the same form, small enough for a test; random weights, as nothing can be fetched
    *("model.weights=null", "model.backbone.depth=18", "model.backbone.frozen_stages=5", "model.neck.channels=16"),
    *("model.roi_heads.box_head={conv_channels: 16, channels: 16}", "model.roi_heads.score_threshold=0.0"),
    *("model.rpn.post_nms_top_n_train=30", "model.rpn.post_nms_top_n_test=20"),
    *("data.train_transforms=[{type: resize_shortest, short: [64]}]", "data.workers=0"),
    *("data.eval_transforms=[{type: resize_shortest, short: [64]}]", "train.epochs=null", "train.steps=2"),
    *("train.batch_size=2", "train.reference_batch_size=2", "device=cpu", "output=run"),
]


def _train(*overrides: str) -> Outcome:
    outcome = run_detres("train", "--config", "custom.yaml", *overrides, *TINY)
    assert outcome.code == 0, outcome.err
    assert "trained 2 steps" in outcome.out
    return outcome


def _check(names: Sequence[str], ids: set[int], image: Path) -> None:
    """Results, evaluation of the checkpoint alone and predictions carry these names and ids."""
    assert load_checkpoint(Path("run/last.pt"))["class_names"] == list(names)
    results = json.loads(Path("run/eval/results.json").read_text())
    assert [row["name"] for row in results["per_class"]] == list(names)
    rows = json.loads(Path("run/eval/detections.json").read_text())
    assert rows and {row["category_id"] for row in rows} <= ids
    outcome = run_detres("eval", "--weights", "run/best.pt", "--output", "again", "device=cpu")
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("again/results.json").read_text())["metrics"] == results["metrics"]
    found = package.load("run/best.pt", device="cpu").predict(image)
    assert len(found) and found.class_names == tuple(names)


def _write_coco(folder: Path, categories: dict[int, str]) -> None:
    """Two JSON files, a.json and b.json, and imgs/: six images of grey with one bright object of each category."""
    (folder / "imgs").mkdir()
    random = np.random.default_rng(0)
    for name, numbers in (("a.json", range(4)), ("b.json", range(4, 6))):
        content: dict[str, Any] = {"images": [], "annotations": []}
        content["categories"] = [{"id": number, "name": label} for number, label in categories.items()]
        for number in numbers:
            pixels = random.integers(90, 110, (60, 80, 3), dtype=np.uint8)
            for column, category in enumerate(categories):
                pixels[10:40, 5 + 40 * column : 30 + 40 * column] = 250
                box = [5 + 40 * column, 10, 25, 30]
                row = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": category, "bbox": box}
                content["annotations"].append(row)
            Image.fromarray(pixels).save(folder / "imgs" / f"{number}.png")
            content["images"].append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 60})
        (folder / name).write_text(json.dumps(content))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETRES_DATASETS", raising=False)
    yield
    shutil.rmtree("run", ignore_errors=True)  # its checkpoints are larger than all that other tests leave


def test_nothing_named() -> None:
    outcome = run_detres("train", "--config", "custom.yaml", *TINY)
    assert outcome.code == 1 and "name yours: data.train.annotations=PATH" in outcome.err
    assert not Path("run").exists()


@pytest.mark.parametrize("categories", [{42: "screw"}, {42: "screw", 7: "nut"}], ids=["one class", "two"])
def test_two_json_files(tmp_path: Path, categories: dict[int, str]) -> None:
    _write_coco(tmp_path, categories)
    named = ("data.train.annotations=a.json", "data.train.images=imgs", "data.val.annotations=b.json")
    outcome = _train(*named)
    count = f"{len(categories)} classes"
    assert f"train: 4 images, {count}" in outcome.out and f"val: 2 images, {count}" in outcome.out
    _check([categories[number] for number in sorted(categories)], set(categories), tmp_path / "imgs" / "5.png")


def test_one_json_file_of_which_images_are_held_out(tmp_path: Path) -> None:
    _write_coco(tmp_path, {7: "nut"})
    outcome = _train("data.train.annotations=a.json", "data.train.images=imgs", "data.val.held_out=0.25")
    assert "train: 3 images, 1 classes" in outcome.out and "val: 1 images, 1 classes" in outcome.out
    _check(["nut"], {7}, tmp_path / "imgs" / "5.png")


BLOOD = ["Platelets", "RBC", "WBC"]


def test_a_folder_of_xml_files(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "bccd" / "VOC2007"
    (tmp_path / "xmls").mkdir()
    for path in sorted((folder / "Annotations").glob("*.xml"))[:8]:
        (tmp_path / "xmls" / path.name).symlink_to(path)
    images = folder / "JPEGImages"
    outcome = _train("data.train.annotations=xmls", f"data.train.images={images}")
    assert "train: 6 images, 3 classes" in outcome.out and "val: 2 images, 3 classes" in outcome.out
    _check(BLOOD, {1, 2, 3}, next(images.iterdir()))


def test_vocs_layout(real_data: Path) -> None:
    root = real_data / "bccd" / "VOC2007"
    splits = [f"data.{n}={{type: voc, root: {root}, split: {n}, max_images: 4}}" for n in ("train", "val")]
    outcome = _train(*splits)
    assert "train: 4 images, 3 classes" in outcome.out and "val: 4 images, 3 classes" in outcome.out
    _check(BLOOD, {1, 2, 3}, next((root / "JPEGImages").iterdir()))
