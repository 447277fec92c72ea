"""Ground truth and detections in the numbers of a real data set, for timing the evaluation.

Shapes: G objects, D detections of one image.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detres.structures import Detections
from detres.wiring import data_root

NUM_CLASSES = 80
_OBJECTS_PER_IMAGE = 7.4  # COCO's val2017 has 36,781 in 5,000 images
_CROWD_EVERY = 80  # and 446 crowds among them
_AREA_SHARE = 0.6  # of an object's box that its mask covers
_NEAR_SHARE = 0.7  # of the detections are near an object, the others anywhere


@dataclass(frozen=True)
class EvaluationSet:
    """What is evaluated: a COCO annotation dict, and the detections of every image in the order of image_ids."""

    source: str
    truth: dict[str, Any]
    detections: list[Detections]
    image_ids: list[int]
    category_ids: list[int]

    def counts(self) -> dict[str, int]:
        """How much of everything there is."""
        detections = sum(len(found) for found in self.detections)
        return {"images": len(self.image_ids), "objects": len(self.truth["annotations"]), "detections": detections}


def make_set(num_images: int, per_image: int = 100, seed: int = 0) -> EvaluationSet:
    """`num_images` images with `per_image` detections each: objects moved a little, and boxes anywhere.

    The objects are those of COCO's val2017, of which eval/coco_val2017_all_boxes.json below DETRES_DATASETS lists the
    boxes, followed by images without any; else they are random ones, as many in an image as COCO has.
    """
    rng = np.random.default_rng(seed)
    objects = _objects_of_coco(num_images)
    source = "random boxes" if objects is None else "the boxes of COCO's val2017"
    objects = _random_objects(num_images, rng) if objects is None else objects
    category_ids = [3 * label + 1 for label in range(NUM_CLASSES)]  # with gaps, as COCO's
    annotations = [
        {"image_id": 7 * image + 3, "category_id": category_ids[int(label)], "bbox": box, "area": box[2] * box[3]}
        for image, (labels, boxes) in enumerate(objects)
        for label, box in zip(labels, boxes.tolist(), strict=True)
    ]
    for number, entry in enumerate(annotations, 1):
        entry |= {"id": number, "iscrowd": int(number % _CROWD_EVERY == 0), "area": _AREA_SHARE * entry["area"]}
    image_ids = [7 * image + 3 for image in range(num_images)]
    truth = {
        "images": [{"id": identifier} for identifier in image_ids],
        "categories": [{"id": identifier, "name": f"class {identifier}"} for identifier in category_ids],
        "annotations": annotations,
    }
    detections = [_detections(labels, boxes, per_image, rng) for labels, boxes in objects]
    return EvaluationSet(source, truth, detections, image_ids, category_ids)


def _objects_of_coco(num_images: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Labels (G,) and xywh boxes (G, 4) of each image; None where the file is not there."""
    file = data_root() / "eval" / "coco_val2017_all_boxes.json"
    if "DETRES_DATASETS" not in os.environ or not Path(file).is_file():
        return None
    listed = json.loads(file.read_text(encoding="utf-8"))["images"]
    tables = [np.array(listed[name], dtype=np.float64) for name in sorted(listed, key=int)[:num_images]]
    ids = np.unique(np.concatenate([table[:, 0] for table in tables]))
    objects = [(np.searchsorted(ids, table[:, 0]), table[:, 1:]) for table in tables]
    return objects + [(np.zeros(0, dtype=np.int64), np.zeros((0, 4)))] * (num_images - len(objects))


def _random_objects(num_images: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same in random numbers: few classes are frequent, few boxes are large."""
    chances = 1 / np.arange(1, NUM_CLASSES + 1)
    objects = []
    for count in rng.geometric(1 / (1 + _OBJECTS_PER_IMAGE), num_images) - 1:
        labels = rng.choice(NUM_CLASSES, size=count, p=chances / chances.sum())
        boxes = np.concatenate([rng.uniform(0, 500, (count, 2)), np.exp(rng.normal(4, 1, (count, 2)))], axis=1)
        objects.append((labels, boxes))
    return objects


def _detections(labels: np.ndarray, boxes_xywh: np.ndarray, count: int, rng: np.random.Generator) -> Detections:
    """`count` detections by falling score."""
    num_near = int(_NEAR_SHARE * count) if len(labels) else 0
    num_other = count - num_near
    chosen = rng.integers(max(1, len(labels)), size=num_near)
    corner, size = boxes_xywh[chosen, :2], boxes_xywh[chosen, 2:]
    corner = corner + size * rng.normal(0, 0.1, (num_near, 2))
    near = np.concatenate([corner, corner + size * np.exp(rng.normal(0, 0.12, (num_near, 2)))], axis=1)
    corner = rng.uniform(0, 500, (num_other, 2))
    other = np.concatenate([corner, corner + np.exp(rng.uniform(2, 6, (num_other, 2)))], axis=1)
    scores = np.concatenate([rng.beta(2, 2, num_near), rng.beta(1, 4, num_other)])
    named = np.concatenate([labels[chosen], rng.integers(NUM_CLASSES, size=num_other)])
    order = np.argsort(-scores, kind="stable")
    return Detections(
        torch.from_numpy(np.concatenate([near, other])[order]).float(),
        torch.from_numpy(scores[order]).float(),
        torch.from_numpy(named[order]).long(),
    )
