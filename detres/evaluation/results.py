"""Files of detections and numbers: COCO results JSON, VOC comp4 text files, results.json.

All are written to a temporary file first: a file that is there is whole.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detres.evaluation.result_arrays import ResultArrays, check_lengths
from detres.evaluation.result_rows import RESULT_KEYS, check_coco_results
from detres.files.atomic_file import atomic_path, write_text_atomically
from detres.structures import Detections

_ROWS_AT_ONCE = 10_000
_LONGEST_FILE_NAME = 150  # bytes of a class; file systems take 255 in all
_ONE_INTEGER_A_LINE = re.compile(r"\[\n\s*(-?\d+(?:,\n\s*-?\d+)*)\n\s*\]")  # no string holds a bare line break


def coco_results(
    detections: Sequence[Detections], image_ids: Sequence[Any], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of a COCO results file (xywh boxes): detections[i] belong to image_ids[i], label k to category_ids[k]."""
    return ResultArrays.from_detections(detections, image_ids, category_ids).rows()


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
    return ResultArrays.from_rows(results, source).to_detections(image_ids, category_ids, class_names, source)


def write_coco_results(
    path: str | Path, detections: Sequence[Detections], image_ids: Sequence[Any], category_ids: Sequence[int]
) -> None:
    """Write detections as a COCO results file, floats at full precision. Raises ValueError for NaN boxes or scores."""
    write_result_arrays(path, ResultArrays.from_detections(detections, image_ids, category_ids))


def write_result_arrays(path: str | Path, results: ResultArrays) -> None:
    """Write detections in arrays as a COCO results file. Raises ValueError for NaN boxes or scores."""
    results.check(str(path))
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for start in range(0, len(results), _ROWS_AT_ONCE):  # the rows of a large set would fill the memory
            text = json.dumps(results.rows(start, start + _ROWS_AT_ONCE), allow_nan=False)
            file.write(f"{', ' if start else ''}{text[1:-1]}")
        file.write("]")


def read_coco_results(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a COCO results file. Raises FileNotFoundError, or ValueError naming the entry that is wrong."""
    rows = _read_rows(path)
    check_coco_results(rows, str(path))
    return rows


def _read_rows(path: str | Path) -> list[Any]:
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
            f"{path}: expected a list of detections with {', '.join(RESULT_KEYS)}, got {type(rows).__name__}{hint}"
        )
    return rows


def read_result_arrays(path: str | Path) -> ResultArrays:
    """A COCO results file as arrays. Raises as read_coco_results does."""
    return ResultArrays.from_rows(_read_rows(path), str(path))


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
    check_lengths(detections, image_ids)
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
