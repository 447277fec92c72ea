"""Reading and checking a COCO instances file, before anything is made of it."""

import json
import reprlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from detres.data.annotations import DatasetError


def parse_instances(path: str, keep_segmentation: bool = False) -> Any:
    """The JSON in a file, whatever it holds. Polygons are dropped while parsing, to bound memory, unless kept.

    Raises DatasetError for a file that is missing, cannot be read, or is not JSON.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file, object_hook=None if keep_segmentation else _without_segmentation)
    except FileNotFoundError:
        raise DatasetError(
            f"{path}: the annotation file does not exist; check the path (relative ones are below DETRES_DATASETS)"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path}: the annotation file cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise DatasetError(f"{path}: not JSON ({error}); fetch or export the file again") from error


def load_instances(path: str) -> dict[str, Any]:
    """The parsed file without polygons, checked to have COCO's three lists."""
    content = parse_instances(path)
    if isinstance(content, list):
        raise DatasetError(
            f"{path}: expected a COCO instances file (an object with images, annotations and categories), got a list; "
            "a results file cannot serve as ground truth"
        )
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            found = "nothing" if rows is None else "something else"
            raise DatasetError(
                f"{path}: not a COCO instances file: expected a list of objects under {key!r}, got {found}; "
                "export the data set in COCO format"
            )
    if not content["images"]:
        raise DatasetError(f"{path}: the data set is empty: 'images' lists none; export it again with its images")
    unique_ids([row for row in content["annotations"] if "id" in row], "annotation", path)
    return content


def _without_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def unique_ids(entries: list[dict[str, Any]], what: str, path: str) -> set[int | str]:
    """The ids of `entries`, each an integer or a string and used once."""
    ids: list[Any] = [entry.get("id") for entry in entries]
    wrong = next((i for i, value in enumerate(ids) if not is_id(value)), None)
    if wrong is not None:
        raise DatasetError(
            f"{path}: {what} number {wrong} has no usable id: expected an integer of at most 64 bits, got "
            f"{reprlib.repr(ids[wrong])}; give it one"
        )
    unique = set(ids)
    if any(isinstance(value, str) for value in ids):
        ids = list(map(str, ids))  # 7 and "7" would be one image in the results
    if len(set(ids)) < len(ids):
        repeated, times = Counter(ids).most_common(1)[0]
        raise DatasetError(
            f"{path}: {what} id {repeated!r:.80} occurs {times} times ({len(ids) - len(set(ids))} repeats in all); "
            f"ids must be unique: remove the copies or renumber each {what}"
        )
    return unique


def is_id(value: Any) -> bool:
    """Whether something can be the id of an image or an annotation."""
    return is_text(value) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def is_text(value: Any) -> bool:
    """Whether something is text that can be written again: JSON can hold halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def shown(entry: dict[str, Any]) -> str:
    """An entry of the file in a message: it may be of any size."""
    return reprlib.repr({key: entry[key] for key in ("id", "name") if key in entry})


def read_categories(entries: list[dict[str, Any]], path: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Category ids and names, by id."""
    if not entries:
        raise DatasetError(f"{path}: 'categories' is empty; list at least one category with id and name")
    unique_ids(entries, "category", path)
    for entry in entries:
        if not isinstance(entry["id"], int) or not is_text(entry.get("name")):
            raise DatasetError(f"{path}: a category needs an integer id and a name, got {shown(entry)}; correct it")
    ordered = sorted(entries, key=lambda entry: entry["id"])
    names = tuple(entry["name"] for entry in ordered)
    if len(set(names)) < len(names):
        repeated = Counter(names).most_common(1)[0][0]
        raise DatasetError(f"{path}: two categories are named {repeated!r}; give each its own name, or join them")
    return tuple(entry["id"] for entry in ordered), names


def choose_images(
    entries: list[dict[str, Any]],
    known: set[int | str],
    image_ids: Sequence[int | str] | None,
    max_images: int | None,
    path: str,
) -> list[dict[str, Any]]:
    """The images in use, ordered by id."""
    if image_ids is not None:
        unknown = [value for value in image_ids if value not in known]
        if unknown:
            raise DatasetError(f"{path}: image_ids names images that the file does not list: {unknown[:5]}")
        wanted = set(image_ids)
        entries = [entry for entry in entries if entry["id"] in wanted]
    # Integers before strings: a file may mix them, and Python cannot compare them.
    ordered = sorted(entries, key=lambda entry: (isinstance(entry["id"], str), entry["id"]))[:max_images]
    if not ordered:
        raise DatasetError(f"{path}: the choice of images is empty; check image_ids and max_images")
    return ordered


def file_names(entries: list[dict[str, Any]], path: str) -> list[str]:
    for entry in entries:
        if not is_text(entry.get("file_name")) or not entry["file_name"]:
            raise DatasetError(f"{path}: image {entry['id']!r} has no file_name; add it, relative to the image folder")
    return [entry["file_name"] for entry in entries]


def read_sizes(entries: list[dict[str, Any]], path: str) -> np.ndarray:
    """Heights and widths (N, 2) int32."""
    for entry in entries:
        size = (entry.get("height"), entry.get("width"))
        if not all(isinstance(side, int) and 0 < side < 2**31 for side in size):
            raise DatasetError(
                f"{path}: image {entry['id']!r} ({entry['file_name']}) needs a positive height and width, "
                f"got {reprlib.repr(size[0])} and {reprlib.repr(size[1])}; write the size of the image file there"
            )
    return np.array([(entry["height"], entry["width"]) for entry in entries], dtype=np.int32)
