"""The embedded data set: what it promises, seen through pycocotools and the file system."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from detres.data.digit_scenes import draw_crop, draw_scene, load_source, render_digit
from detres.data.digits import CATEGORY_IDS, outline_polygons, run_lengths, write_digits

SMALL = {"num_train": 60, "num_test": 8, "num_crops": 20}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set."""
    return write_digits(tmp_path_factory.mktemp("datasets"), **SMALL).folder


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_nothing_wanted_gives_valid_empty_files(tmp_path: Path) -> None:
    summary = write_digits(tmp_path, num_train=0, num_test=0, num_crops=0)
    coco = COCO(summary.folder / "annotations" / "instances_train.json")
    assert not coco.imgs and not coco.anns and len(coco.cats) == 10
    assert summary.num_objects == {"train": 0, "test": 0}


def test_equal_settings_give_equal_bytes_and_another_seed_others(written: Path, tmp_path: Path) -> None:
    again = write_digits(tmp_path / "again", **SMALL).folder
    assert _digests(written) == _digests(again)
    other = write_digits(tmp_path / "other", seed=1, num_train=5, num_test=0, num_crops=0).folder
    shared = [name for name in _digests(other) if name.endswith(".jpg")]
    assert len(shared) == 5 and all(_digests(other)[name] != _digests(written)[name] for name in shared)


def test_a_shorter_data_set_begins_like_a_longer_one(written: Path, tmp_path: Path) -> None:
    short = _digests(write_digits(tmp_path, num_train=3, num_test=0, num_crops=0).folder)
    assert {name: digest for name, digest in _digests(written).items() if name in short and "json" not in name} == {
        name: digest for name, digest in short.items() if "json" not in name
    }


def test_pycocotools_reads_it_and_masks_boxes_and_areas_agree(written: Path) -> None:
    coco = COCO(written / "annotations" / "instances_train.json")
    assert sorted(coco.cats) == list(CATEGORY_IDS)
    assert [coco.cats[key]["name"] for key in CATEGORY_IDS] == [str(digit) for digit in range(10)]
    for entry in coco.anns.values():
        mask, (x, y, width, height) = coco.annToMask(entry), entry["bbox"]
        rows, columns = np.nonzero(mask)
        corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(corners - [x, y, x + width, y + height]).max() <= 1
        assert abs(mask.sum() - entry["area"]) <= max(4, 0.15 * entry["area"])
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        image = coco.imgs[entry["image_id"]]
        assert x + width <= image["width"] and y + height <= image["height"]


def test_the_hard_cases_of_coco_occur(written: Path) -> None:
    coco = json.loads((written / "annotations" / "instances_train.json").read_text())
    entries = coco["annotations"]
    crowds = [entry for entry in entries if entry["iscrowd"]]
    assert crowds and all(isinstance(entry["segmentation"], dict) for entry in crowds)
    assert {image["id"] for image in coco["images"]} - {entry["image_id"] for entry in entries}, "no empty scene"
    assert min(entry["bbox"][3] for entry in entries) < 15, "no tiny object"
    assert len({(image["height"], image["width"]) for image in coco["images"]}) == 3
    ids = [image["id"] for image in coco["images"]]
    assert np.diff(ids).min() > 1, "no gaps in the image ids"
    assert any(len(entry["segmentation"]) > 1 for entry in entries if not entry["iscrowd"]), "nothing is overlapped"


def test_images_have_the_annotated_size(written: Path) -> None:
    for image in json.loads((written / "annotations" / "instances_test.json").read_text())["images"]:
        assert Image.open(written / "test" / image["file_name"]).size == (image["width"], image["height"])


def test_crops_are_balanced_image_folders(written: Path) -> None:
    for split, each in (("train", 2), ("val", 1)):
        folders = sorted((written / "classify" / split).iterdir())
        assert [folder.name for folder in folders] == [str(digit) for digit in range(10)]
        assert all(len(list(folder.glob("*.png"))) == each for folder in folders)


def test_an_existing_data_set_is_kept_and_a_different_one_refused(written: Path) -> None:
    before = _digests(written)
    summary = write_digits(written.parent, **SMALL)
    assert not summary.written and summary.num_images == {"train": 60, "test": 8}
    with pytest.raises(FileExistsError, match=r"num_train 60 instead of 61.*move or delete"):
        write_digits(written.parent, **{**SMALL, "num_train": 61})
    assert _digests(written) == before


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no valid digits.json"):
        write_digits(tmp_path, **SMALL)
    assert (tmp_path / "digits" / "thesis.txt").read_text() == "mine"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 98
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_digits(tmp_path, **SMALL, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"num_train": -1}, {"image_size": 10}, {"seed": -1}, {"num_crops": 3}])
def test_impossible_settings_are_named(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        write_digits(tmp_path, **wrong)


def test_the_splits_share_neither_scans_nor_photographs() -> None:
    train, val, test = (load_source(split) for split in ("train", "val", "test"))
    assert len(train.scans.labels) + len(val.scans.labels) + len(test.scans.labels) == 1797
    seen = {scan.tobytes() for scan in train.scans.images}
    assert not seen & {scan.tobytes() for scan in test.scans.images}
    assert not seen & {scan.tobytes() for scan in val.scans.images}
    for left, right in zip(train.photos, test.photos, strict=True):
        assert left.shape[1] + right.shape[1] < 640
    assert all(set(source.scans.labels) == set(range(10)) for source in (train, val, test))


def test_visible_ink_differs_from_what_is_behind_it() -> None:
    source = load_source("test")
    for seed in range(10):
        picture, objects = draw_scene(source, (160, 160), np.random.default_rng(seed))
        luma = picture @ np.array([0.299, 0.587, 0.114])
        for thing in objects:
            if thing.mask.sum() > 100 and not thing.crowd:
                rows, columns = np.nonzero(thing.mask)
                box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
                background = luma[box][~thing.mask[box]]
                assert abs(np.median(luma[thing.mask]) - np.median(background)) > 15


def test_a_digit_has_the_height_that_was_asked_for() -> None:
    scan = load_source("train").scans.images[0]
    for height in (12, 24, 48):
        heights = [len(render_digit(scan, height, np.random.default_rng(seed))) for seed in range(20)]
        assert 0.85 * height <= np.mean(heights) <= 1.3 * height


def test_a_crop_shows_its_digit_whole() -> None:
    source = load_source("val")
    crops = [draw_crop(source, label, 48, np.random.default_rng(label)) for label in range(10)]
    assert all(crop.shape == (48, 48, 3) and crop.dtype == np.uint8 for crop in crops)


def test_outlines_and_run_lengths_of_hand_made_masks() -> None:
    mask = np.zeros((4, 5), dtype=np.bool_)
    mask[1:3, 1:4] = True
    polygons, area = outline_polygons(mask)
    points = np.array(polygons[0]).reshape(-1, 2)
    assert len(polygons) == 1 and area == 6
    assert points.min(axis=0).tolist() == [1.25, 1.25] and points.max(axis=0).tolist() == [3.75, 2.75]
    assert run_lengths(mask) == [5, 2, 2, 2, 2, 2, 5]
    assert run_lengths(np.ones((2, 2), dtype=np.bool_)) == [0, 4]
    assert run_lengths(np.zeros((2, 2), dtype=np.bool_)) == [4]
