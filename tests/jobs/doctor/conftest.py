"""Small data sets without a fault, in COCO's and VOC's form, for the tests to plant faults in."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detres.config import load_config
from detres.jobs.doctor import Diagnosis, doctor

SIZE_HW = (64, 96)
CONFIG = """\
model:
  type: faster_rcnn
  backbone: {type: resnet, depth: 18, out_features: [c2, c3]}
  neck: {channels: 16, top: none}
  anchors: {sizes: [[16], [28]]}
  roi_heads: {box_head: {type: fc, channels: 32}}
data:
  train: {TRAIN}
  val: {VAL}
  train_transforms: [{type: resize_shortest, short: [64, 80]}, {type: horizontal_flip}]
  workers: 0
train: {batch_size: 2, steps: 1, optimizer: {type: sgd, lr: 0.01}, schedule: {type: constant}}
device: cpu
"""
COCO = "{type: coco, annotations: coco/SPLIT.json, images: coco/SPLIT}"
VOC = "{type: voc, root: voc/VOC2007, split: SPLIT}"
SPLITS = {"train": 6, "val": 3}


@dataclass
class Clinic:
    """A folder with a data set and its configuration."""

    root: Path
    config: Path

    def examine(self, *overrides: str, **options: Any) -> Diagnosis:
        """Run the doctor."""
        loaded = load_config(self.config, overrides)
        return doctor(loaded, output=self.root / "out", workers=2, **options)

    def edit(self, change: Callable[[dict[str, Any]], None], split: str = "train") -> None:
        """Change a COCO file."""
        path = self.root / "coco" / f"{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def image(self, split: str, number: int) -> Path:
        """An image file of the COCO set."""
        return self.root / "coco" / split / f"{number}.png"

    def xml(self, stem: str) -> Path:
        """An annotation file of the VOC set."""
        return self.root / "voc" / "VOC2007" / "Annotations" / f"{stem}.xml"

    def replace(self, stem: str, old: str, new: str) -> None:
        """Change a VOC file."""
        text = self.xml(stem).read_text()
        assert old in text
        self.xml(stem).write_text(text.replace(old, new, 1))


def found(diagnosis: Diagnosis) -> dict[str, int]:
    """The checks that found something, with their counts."""
    return {key: finding.count for key, finding in diagnosis.findings.by_key.items() if finding.count}


def _boxes(number: int) -> list[tuple[str, list[int]]]:
    """Two objects of an image, of classes a and b, as xywh."""
    return [("a", [4 + number, 6, 16, 16]), ("b", [40, 20 + number, 28, 28])]


def _write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _clinic(root: Path, entry: str, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    monkeypatch.setenv("DETRES_DATASETS", str(root))
    text = CONFIG.replace("{TRAIN}", entry.replace("SPLIT", "train")).replace("{VAL}", entry.replace("SPLIT", "val"))
    (root / "mine.yaml").write_text(text)
    return Clinic(root, root / "mine.yaml")


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    """A COCO set with category ids 7 and 42 (gaps are fine)."""
    for offset, (split, count) in enumerate(SPLITS.items()):
        images, annotations = [], []
        for number in range(count):
            _write_image(tmp_path / "coco" / split / f"{number}.png", 100 * offset + number)
            image = {"id": 10 * number + 3, "file_name": f"{number}.png", "height": SIZE_HW[0], "width": SIZE_HW[1]}
            images.append(image)
            for name, bbox in _boxes(number):
                row = {"image_id": image["id"], "category_id": {"a": 7, "b": 42}[name], "bbox": bbox, "iscrowd": 0}
                extra = {"area": bbox[2] * bbox[3], "segmentation": [[1, 2, 3, 4, 5, 6]]}
                annotations.append({"id": len(annotations) + 5, **row, **extra})
        categories = [{"id": 7, "name": "a"}, {"id": 42, "name": "b"}]
        content = {"info": {"year": 1}, "images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "coco" / f"{split}.json").write_text(json.dumps(content))
    return _clinic(tmp_path, COCO, monkeypatch)


@pytest.fixture
def voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    """The same in VOC's form; images t0, t1 ... and v0 ..."""
    root = tmp_path / "voc" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for offset, (split, count) in enumerate(SPLITS.items()):
        stems = [f"{split[0]}{number}" for number in range(count)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
        for number, stem in enumerate(stems):
            _write_image(root / "JPEGImages" / f"{stem}.png", 100 * offset + number)
            objects = "".join(
                f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
                f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for name, (x, y, w, h) in _boxes(number)
            )
            size = f"<size><width>{SIZE_HW[1]}</width><height>{SIZE_HW[0]}</height><depth>3</depth></size>"
            (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return _clinic(tmp_path, VOC, monkeypatch)
