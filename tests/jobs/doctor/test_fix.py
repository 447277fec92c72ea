"""`detres doctor --fix`: the copy loads, is clean, keeps what was right, and the source stays as it was."""

import json
import shutil
from pathlib import Path
from typing import Any

from detres.data.coco import CocoDataset
from detres.data.voc import VocDataset
from tests.jobs.conftest import run_detres
from tests.jobs.doctor.conftest import Clinic, found


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _settings(clinic: Clinic, fixed: Path) -> list[str]:
    """The overrides that the command tells its user."""
    outcome = run_detres("doctor", "--config", clinic.config, "--output", clinic.root / "out", "--fix", fixed)
    assert "to use the copy" in outcome.out, outcome.err
    return [line for line in outcome.out.splitlines() if line.startswith("data.") and "=" in line.split()[0]]


def test_nothing_to_fix(coco: Clinic, tmp_path: Path) -> None:
    settings = _settings(coco, tmp_path / "fixed")
    assert (tmp_path / "fixed" / "changes.txt").read_text() == "nothing was changed\n"
    for split in ("train", "val"):
        theirs = json.loads((tmp_path / "coco" / f"{split}.json").read_text())
        assert json.loads((tmp_path / "fixed" / f"{split}.json").read_text()) == theirs
    assert found(coco.examine(*settings)) == {}


def _spoil(content: dict[str, Any]) -> None:
    """One of each fault."""
    images, rows = content["images"], content["annotations"]
    images[0].pop("width")
    images[1].update(height=96, width=64)  # turned
    images.append({**images[2]})
    images.append({"id": 7, "file_name": "absent.png", "height": 9, "width": 9})
    images.append({"id": 8, "height": 9, "width": 9})
    rows[0]["bbox"] = [90, 6, 16, 16]  # partly outside
    rows[2]["id"] = 5
    rows[3]["bbox"] = [4, 6, 0, 16]
    rows[4]["bbox"] = [4, 6, float("nan"), 16]
    rows[5]["area"] = -1
    rows.append({**rows[6], "id": 100})
    rows.append({**rows[6], "id": 101, "image_id": 55})
    rows.append({**rows[6], "id": 102, "category_id": 55})
    rows.append({**rows[6], "id": 103, "category_id": 50})
    rows[-1]["bbox"] = [50, 1, 18, 18]
    content["categories"].append({"id": 50, "name": "b"})
    content["categories"].append({"name": "nothing"})


def test_everything_that_can_be_fixed_in_coco(coco: Clinic, tmp_path: Path) -> None:
    coco.edit(_spoil)
    shutil.copy(coco.image("val", 0), coco.image("train", 5))
    before = _snapshot(tmp_path / "coco")
    settings = _settings(coco, tmp_path / "fixed")
    assert _snapshot(tmp_path / "coco") == before
    assert found(coco.examine(*settings)) == {}
    fixed = CocoDataset(tmp_path / "fixed" / "train.json", tmp_path / "coco" / "train", on_bad_box="error")
    assert [fixed.image_id(i) for i in range(len(fixed))] == [3, 13, 23, 33, 43]  # without 53, which val has
    assert fixed.size_hw(0) == fixed.size_hw(1) == (64, 96) and fixed.class_names == ("a", "b")
    content = json.loads((tmp_path / "fixed" / "train.json").read_text())
    rows = {row["id"]: row for row in content["annotations"]}
    assert rows[5]["bbox"] == [90, 6, 6, 16] and rows[5]["area"] == 96 and rows[5]["segmentation"]
    assert rows[10]["area"] == 28 * 28 and rows[103]["category_id"] == 42 and rows[104]["image_id"] == 13
    assert content["info"] == {"year": 1} and len(rows) == len(content["annotations"])
    changes = (tmp_path / "fixed" / "changes.txt").read_text()
    for text in ("absent.png", "zero or negative", "duplicate boxes", "cut at the border", "joined with 42"):
        assert text in changes, changes


def test_near_duplicates_stay(coco: Clinic, tmp_path: Path) -> None:
    """Of exact ones, one does; which of two near ones is right, nobody knows."""
    coco.edit(lambda c: c["annotations"].append({**c["annotations"][0], "id": 99, "bbox": [4, 6, 15.5, 16]}))
    coco.edit(lambda c: c["annotations"].append({**c["annotations"][2], "id": 100}))
    settings = _settings(coco, tmp_path / "fixed")
    assert found(coco.examine()) == {"boxes_twice": 1, "boxes_nearly_twice": 1}
    assert found(coco.examine(*settings)) == {"boxes_nearly_twice": 1}


def test_what_cannot_be_cleaned_is_told(coco: Clinic, tmp_path: Path) -> None:
    arguments = "{annotations: ROOT/coco/val.json, images: ROOT/coco/val}".replace("ROOT", str(coco.root))
    diagnosis = coco.examine(
        f"data.val={{type: 'detres.data.coco:CocoDataset', args: {arguments}}}", fix=tmp_path / "a b"
    )
    assert diagnosis.fixed[1:] == (
        f"'data.train.annotations={tmp_path / 'a b' / 'train.json'}'",
        "data.val stays as it is: type detres.data.coco:CocoDataset cannot be cleaned",
    )


def test_images_that_share_an_id_with_another_file_go(coco: Clinic, tmp_path: Path) -> None:
    coco.edit(lambda content: content["images"][1].update(id=3))
    settings = _settings(coco, tmp_path / "fixed")
    assert found(coco.examine(*settings)) == {}
    images = json.loads((tmp_path / "fixed" / "train.json").read_text())["images"]
    assert [image["id"] for image in images] == [23, 33, 43, 53]


def test_only_the_images_in_use_are_copied(coco: Clinic, tmp_path: Path) -> None:
    text = coco.config.read_text().replace("images: coco/train}", "images: coco/train, max_images: 2}")
    coco.config.write_text(text)
    coco.image("train", 0).unlink()
    settings = _settings(coco, tmp_path / "fixed")
    assert "data.train.max_images=null" in settings
    assert [row["id"] for row in json.loads((tmp_path / "fixed" / "train.json").read_text())["images"]] == [13]
    assert found(coco.examine(*settings)) == {}


def test_everything_that_can_be_fixed_in_voc(voc: Clinic, tmp_path: Path) -> None:
    root = tmp_path / "voc" / "VOC2007"
    voc.replace("t0", "<xmin>5</xmin>", "<xmin>20</xmin>")
    voc.replace("t1", "<xmin>6</xmin>", "<xmin>-9</xmin>")
    voc.replace("t2", "<name>a</name>", "")
    voc.replace("t3", "<width>96</width>", "")
    voc.replace("v0", "</annotation>", "")
    lists = root / "ImageSets" / "Main" / "train.txt"
    lists.write_text(lists.read_text() + "t0\nabsent\nv1\n")
    before = _snapshot(root)
    settings = _settings(voc, tmp_path / "fixed")
    assert _snapshot(root) == before
    assert found(voc.examine(*settings)) == {}
    fixed = VocDataset(tmp_path / "fixed" / "VOC2007", "train", on_bad_box="error")
    assert [fixed.image_id(i) for i in range(len(fixed))] == [f"t{i}" for i in range(6)]
    assert [len(fixed.annotations(i)) for i in range(6)] == [1, 2, 1, 2, 2, 2]
    assert fixed.annotations(1).boxes_xyxy[0].tolist() == [0, 6, 21, 22] and fixed.size_hw(3) == (64, 96)
    changes = (tmp_path / "fixed" / "changes.txt").read_text()
    assert changes.count("\n") == 7 and "also in a split that measures" in changes


def test_lists_cannot_lead_out_of_the_folder(voc: Clinic, tmp_path: Path) -> None:
    root = tmp_path / "voc" / "VOC2007"
    for folder, suffix in (("Annotations", "xml"), ("JPEGImages", "png")):
        (root / folder / "sub").mkdir()
        shutil.copy(root / folder / f"t0.{suffix}", root / folder / "sub" / f"t9.{suffix}")
    for name, text in (("train", "../Annotations/t0\n"), ("val", "sub/t9\n")):
        path = root / "ImageSets" / "Main" / f"{name}.txt"
        path.write_text(path.read_text() + text)
    before = _snapshot(tmp_path / "voc")
    settings = _settings(voc, tmp_path / "fixed")
    assert _snapshot(tmp_path / "voc") == before and found(voc.examine(*settings)) == {}


def test_what_is_never_written_to(coco: Clinic, voc: Clinic, tmp_path: Path) -> None:
    """Both fixtures share the folder; the configuration is that of the second, VOC."""
    before = _snapshot(tmp_path)
    for target, needle in (
        (tmp_path / "voc" / "VOC2007", "is the data set itself"),
        (tmp_path / "voc", "exists and is not empty"),
        (voc.config, "exists and is not empty"),
    ):
        outcome = run_detres("doctor", "--config", voc.config, "--output", tmp_path / "out", "--fix", target)
        assert outcome.code == 1 and needle in outcome.err
    assert _snapshot(tmp_path) == before


def test_a_split_without_a_usable_image(coco: Clinic, tmp_path: Path) -> None:
    for number in range(3):
        coco.image("val", number).unlink()
    diagnosis = coco.examine(fix=tmp_path / "fixed")
    assert diagnosis.fixed == ("no cleaned copy was written: no usable image would be left in val",)
    assert (
        found(diagnosis)["missing_images"] == 3
        and not (tmp_path / "fixed").exists()
        and not list(tmp_path.glob(".fixed*"))
    )
