"""What a row of a COCO results file must be."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

LARGEST = 1e30  # of any number in a row; single precision holds it
RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


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
        return f"is {type(row).__name__}, expected an object with {', '.join(RESULT_KEYS)}"
    if missing := [key for key in RESULT_KEYS if key not in row]:
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
    """Whether it is a number of less than LARGEST: integers may be of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
