"""Files of detections and numbers: COCO results JSON, VOC comp4 text files, results.json.

All are written to a temporary file first: a file that is there is whole.
"""

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detres.files.atomic_file import atomic_path, write_text_atomically
from detres.structures import Detections
from detres.structures.boxes import xywh_to_xyxy

_LARGEST = 1e30
_LONGEST_FILE_NAME = 150  # bytes of a class; file systems take 255 in all
_KEYS = ("image_id", "category_id", "bbox", "score")
_ONE_INTEGER_A_LINE = re.compile(r"\[\n\s*(-?\d+(?:,\n\s*-?\d+)*)\n\s*\]")  # no string holds a bare line break


def coco_results(
    detections: Sequence[Detections], image_ids: Sequence[Any], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of a COCO results file (xywh boxes): detections[i] belong to image_ids[i], label k to category_ids[k]."""
    _check_lengths(detections, image_ids)
    return [
        row
        for found, image_id in zip(detections, image_ids, strict=True)
        for row in found.to_coco(image_id, category_ids)
    ]


def detections_from_results(
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[Any],
    category_ids: Sequence[int],
    class_names: Sequence[str] = (),
    source: str = "results",
) -> list[Detections]:
    """The inverse of `coco_results`: one Detections per image id, by decreasing score (equal scores in file order).

    Raises ValueError, naming `source`, for rows whose image or category is not listed.
    """
    labels = {category: label for label, category in enumerate(category_ids)}
    rows: dict[Any, list[Mapping[str, Any]]] = {image_id: [] for image_id in image_ids}
    for number, row in enumerate(results):
        if row["image_id"] not in rows or row["category_id"] not in labels:
            raise ValueError(
                f"{source}: entry {number} (image_id {row['image_id']!r:.80}, category_id {row['category_id']!r:.80}) "
                "belongs to no image or category of this data set; were the results made on another one?"
            )
        rows[row["image_id"]].append(row)
    return [_to_detections(rows[image_id], labels, tuple(class_names)) for image_id in image_ids]


def _to_detections(
    rows: list[Mapping[str, Any]], labels: Mapping[int, int], class_names: tuple[str, ...]
) -> Detections:
    rows = sorted(rows, key=lambda row: -row["score"])
    # The sum in double precision, so that corners written by coco_results come back bit for bit.
    boxes = xywh_to_xyxy(torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4))
    scores = torch.tensor([row["score"] for row in rows], dtype=torch.float32)
    found = torch.tensor([labels[row["category_id"]] for row in rows], dtype=torch.int64)
    return Detections(boxes.float(), scores, found, class_names)


def write_coco_results(
    path: str | Path, detections: Sequence[Detections], image_ids: Sequence[Any], category_ids: Sequence[int]
) -> None:
    """Write detections as a COCO results file, floats at full precision. Raises ValueError for NaN boxes or scores."""
    rows = coco_results(detections, image_ids, category_ids)
    check_coco_results(rows, str(path))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(rows, allow_nan=False), encoding="utf-8")


def read_coco_results(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a COCO results file. Raises FileNotFoundError, or ValueError naming the entry that is wrong."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"results file {path} does not exist; detres eval writes one, or pass another path")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise ValueError(f"{path} is not a JSON file ({error}); is it truncated?") from error
    if not isinstance(rows, list):
        hint = "; it looks like an annotation file" if isinstance(rows, dict) and "annotations" in rows else ""
        raise ValueError(
            f"{path}: expected a list of detections with {', '.join(_KEYS)}, got {type(rows).__name__}{hint}"
        )
    check_coco_results(rows, str(path))
    return rows


def check_coco_results(rows: Sequence[Any], source: str) -> None:
    """Raise ValueError naming `source` and the first bad entry, with the number of bad ones."""
    bad = [(number, problem) for number, row in enumerate(rows) if (problem := _problem(row))]
    if bad:
        number, problem = bad[0]
        more = f" ({len(bad)} of {len(rows)} entries are bad)" if len(bad) > 1 else ""
        raise ValueError(f"{source}: entry {number} {problem}{more}")


def _problem(row: Any) -> str | None:
    """What is wrong with one row of a results file, or None."""
    if not isinstance(row, Mapping):
        return f"is {type(row).__name__}, expected an object with {', '.join(_KEYS)}"
    if missing := [key for key in _KEYS if key not in row]:
        return f"lacks {', '.join(missing)}; it has {', '.join(map(str, row)) or 'nothing':.80}"
    for key in ("image_id", "category_id"):
        if not isinstance(row[key], int | str):
            return f"has {key} {reprlib.repr(row[key])}, expected an integer or a string"
    box = row["bbox"]
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_finite, box)):
        return f"has bbox {reprlib.repr(box)}, expected four finite numbers x, y, width, height"
    if box[2] < 0 or box[3] < 0:
        return f"has bbox {box!r} of negative size; COCO boxes are x, y, width, height, not corners"
    if not _is_finite(row["score"]):
        return f"has score {reprlib.repr(row['score'])}, expected a finite number"
    return None


def _is_finite(value: Any) -> bool:
    """Whether it is a number, and one that single precision holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def write_voc_comp4(
    folder: str | Path,
    detections: Sequence[Detections],
    image_ids: Sequence[Any],
    class_names: Sequence[str],
    split: str = "test",
) -> list[Path]:
    """Write comp4_det_{split}_{class}.txt for every class: lines `image score x1 y1 x2 y2`; returns the paths.

    Pixels are 1-based and inclusive, as the VOC devkit reads them: x1 + 1, y1 + 1, x2, y2 of our continuous boxes.
    A class without detections gets an empty file, which the devkit needs. In names, characters that cannot stand in
    a file name become "_". Raises ValueError when two classes would share a file.
    """
    _check_lengths(detections, image_ids)
    paths = [Path(folder) / f"comp4_det_{_file_name(split)}_{_file_name(name)}.txt" for name in class_names]
    if len(set(paths)) < len(paths):
        raise ValueError(f"two classes would be written to one comp4 file; rename one of {sorted(class_names)}")
    lines: list[list[str]] = [[] for _ in class_names]
    for found, image_id in zip(detections, image_ids, strict=True):
        boxes = found.boxes_xyxy.double() + torch.tensor([1, 1, 0, 0])
        for box, score, label in zip(boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
            lines[label].append(
                " ".join(["_".join(str(image_id).split()), *(f"{value:.9g}" for value in (score, *box))])
            )
    for path, rows in zip(paths, lines, strict=True):
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", errors="surrogateescape")
    return paths


def write_results_json(path: str | Path, results: Mapping[str, Any]) -> None:
    """Write numbers at full precision as JSON; what could not be computed is null, its reason stands beside it.

    `results` is for instance `DetectionMetrics.to_dict()`, with any further plain entries; a list of integers (a row
    of a matrix) stands on one line. Raises ValueError for NaN and infinite values: a metric that does not exist must
    be None with a reason.
    """
    try:
        text = json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"{path}: a result is NaN or infinite; write None and the reason instead") from error
    text = _ONE_INTEGER_A_LINE.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    write_text_atomically(path, text + "\n")


def _file_name(text: str) -> str:
    plain = "".join("_" if c in '<>:"/\\|?*' or not c.isprintable() else c for c in text)
    return plain.encode()[:_LONGEST_FILE_NAME].decode(errors="ignore")


def _check_lengths(detections: Sequence[Detections], image_ids: Sequence[Any]) -> None:
    if len(detections) != len(image_ids):
        raise ValueError(f"expected one Detections per image, got {len(detections)} for {len(image_ids)} images")
