"""Precision and recall computed by pycocotools itself: the reference."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from detres.evaluation.coco_tables import Found, Objects


def precision_recall(
    truth: Objects, found: Found, num_images: int, num_classes: int, limits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' precision (T, R, K, A, M) and recall (T, K, A, M), -1 without ground truth; `limits` rise."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    frame = {"images": [{"id": i} for i in range(num_images)], "categories": [{"id": k} for k in range(num_classes)]}
    truth_api, found_api = COCO(), COCO()
    truth_api.dataset = {**frame, "annotations": _rows(truth, iscrowd=truth.crowd.astype(int).tolist())}
    no_crowds = [0] * len(found.scores)
    found_api.dataset = {**frame, "annotations": _rows(found, score=found.scores.tolist(), iscrowd=no_crowds)}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress, and nothing else
        truth_api.createIndex()
        found_api.createIndex()
        evaluation = COCOeval(truth_api, found_api, "bbox")
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _rows(table: Objects | Found, **further: list[Any]) -> list[dict[str, Any]]:
    columns = {
        # From 1 on: pycocotools takes an annotation with id 0 for "not matched".
        "id": range(1, len(table.images) + 1),
        "image_id": table.images.tolist(),
        "category_id": table.classes.tolist(),
        "bbox": table.boxes_xywh.tolist(),
        "area": table.areas.tolist(),
        **further,
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
