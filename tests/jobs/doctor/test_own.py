"""The doctor on data of the user's own, and on images without annotations."""

import shutil
from pathlib import Path

import pytest

from tests.jobs.doctor.conftest import Clinic, found

OWN = "{type: own, annotations: coco/SPLIT.json, images: coco/SPLIT}"


def _own(clinic: Clinic, monkeypatch: pytest.MonkeyPatch, entry: str = OWN, val: str = OWN) -> list[str]:
    """Settings of data named from the working directory."""
    monkeypatch.chdir(clinic.root)
    monkeypatch.delenv("DETRES_DATASETS")
    return [f"data.{split}={text.replace('SPLIT', split)}" for split, text in (("train", entry), ("val", val))]


def test_a_coco_file_is_read_and_cleaned_as_coco(coco: Clinic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = _own(coco, monkeypatch)
    assert found(coco.examine(*settings)) == {}
    coco.edit(lambda content: content["annotations"][0].update(bbox=[4, 6, 0, 16], id=6))
    diagnosis = coco.examine(*settings, fix=tmp_path / "fixed")
    assert found(diagnosis) == {"boxes_without_size": 1, "annotation_ids": 1, "loading": 1}
    notes = [line for line in diagnosis.fixed if line.startswith("data.")]
    assert notes == [f"data.{name}.annotations={tmp_path / 'fixed' / name}.json" for name in ("train", "val")]
    assert found(coco.examine(*settings, *notes)) == {}


def test_images_held_out_of_training_are_looked_at_once(coco: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = coco.examine(*_own(coco, monkeypatch, val="{type: own}"))
    assert found(diagnosis) == {}
    assert [line.partition(":")[0] for line in diagnosis.summary[:2]] == ["data.train", "data.val"]
    assert "held out" in diagnosis.summary[1]


def test_a_folder_of_xml_files(voc: Clinic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = "{type: own, annotations: voc/VOC2007/Annotations, images: voc/VOC2007/JPEGImages}"
    settings = _own(voc, monkeypatch, entry, "{type: own}")
    assert found(voc.examine(*settings)) == {}
    voc.replace("t0", "<xmin>5</xmin>", "<xmin>20</xmin>")
    shutil.copy(voc.xml("t1"), voc.xml("t1x"))  # and no image of its name
    counts = found(voc.examine(*settings))
    assert counts["annotation_files"] == 1 and counts["missing_images"] == 1
    with pytest.raises(ValueError, match="of type own; only COCO files"):
        voc.examine(*settings, fix=tmp_path / "fixed")


def test_nothing_there(coco: Clinic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = _own(coco, monkeypatch, OWN.replace("json", "txt"))
    finding = coco.examine(*settings).findings.by_key["annotation_files"]
    assert finding.count == 1 and "train.txt exists" in finding.examples[0].text
    with pytest.raises(ValueError, match="train.txt exists"):
        coco.examine(*settings, fix=tmp_path / "fixed")


def test_images_without_annotations_have_no_empty_ones(voc: Clinic) -> None:
    test = "data.test={type: voc, root: voc/VOC2007, split: val, annotated: false, class_names: [a, b]}"
    counts = found(voc.examine(test))
    assert counts == {"leaks": 3}  # they are those of val here
