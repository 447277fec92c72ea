"""The doctor on data of the user's own, and on images without annotations."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from detres import wiring
from detres.config import load_config
from detres.config.data import OwnDataset
from detres.jobs.doctor.held_out import mark_held_out
from detres.jobs.doctor.records import RawImage, Split
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
    assert diagnosis.summary[0].startswith("data.train: 6 images, 12 boxes")
    assert diagnosis.summary[1] == "data.val: 1 of the images of data.train, which are held out of training"
    assert diagnosis.findings.by_key["class_balance"].rows[0] == {"class": "a", "train": 5, "val": 1}
    assert diagnosis.findings.by_key["anchor_coverage"].of == 10


def test_a_folder_of_xml_files(voc: Clinic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = "{type: own, annotations: voc/VOC2007/Annotations, images: voc/VOC2007/JPEGImages}"
    settings = _own(voc, monkeypatch, entry, "{type: own}")
    assert found(voc.examine(*settings)) == {}
    voc.replace("t0", "<xmin>5</xmin>", "<xmin>20</xmin>")
    shutil.copy(voc.xml("t1"), voc.xml("t1x"))  # and no image of its name
    counts = found(voc.examine(*settings))
    assert counts == {"boxes_without_size": 1, "missing_images": 1}
    diagnosis = voc.examine(*settings, fix=tmp_path / "fixed")
    note = f"data.train.annotations={tmp_path / 'fixed' / 'Annotations'}"
    assert diagnosis.fixed[1:] == (note,)
    assert found(voc.examine(*settings, note)) == {}
    assert not (tmp_path / "fixed" / "Annotations" / "t1x.xml").exists()
    changes = (tmp_path / "fixed" / "changes.txt").read_text().splitlines()
    assert len(changes) == 2 and "t1x" in changes[0] + changes[1]


ENTRY = "{type: own, annotations: voc/VOC2007/Annotations, images: voc/VOC2007/JPEGImages}"


def test_folders_below_and_repeated_names(voc: Clinic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The copies lie below the new folder as the files do below theirs; the files stay as they were."""
    settings = _own(voc, monkeypatch, ENTRY, "{type: own}")
    below = voc.xml("t0").parent / "more"
    below.mkdir()
    shutil.move(voc.xml("t0"), below / "t0.xml")
    shutil.copy(voc.xml("t1"), voc.xml("t1").with_suffix(".XML"))
    voc.replace("t2", "<xmin>7</xmin>", "<xmin>-9</xmin>")
    before = {path: path.read_bytes() for path in voc.root.rglob("*") if path.is_file()}
    diagnosis = voc.examine(*settings, fix=tmp_path / "fixed")
    assert found(diagnosis) == {"image_ids": 1, "boxes_partly_outside": 1}
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "fixed" / "Annotations" / "more" / "t0.xml").is_file()
    assert found(voc.examine(*settings, *diagnosis.fixed[1:])) == {}


def test_two_folders_of_one_name(voc: Clinic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = voc.root / split / "xmls"
        folder.mkdir(parents=True)
        for path in voc.xml("t0").parent.glob(f"{split[0]}*.xml"):
            shutil.copy(path, folder)
    entry = "{type: own, annotations: SPLIT/xmls, images: voc/VOC2007/JPEGImages}"
    settings = _own(voc, monkeypatch, entry, entry)
    diagnosis = voc.examine(*settings, fix=tmp_path / "fixed")
    notes = [f"data.{name}={tmp_path / 'fixed'}/{folder}" for name, folder in
             (("train.annotations", "xmls"), ("val.annotations", "val_xmls"))]  # fmt: skip
    assert found(diagnosis) == {} and list(diagnosis.fixed[1:]) == notes
    assert found(voc.examine(*settings, *notes)) == {}


def test_copies_never_lie_among_the_files(voc: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _own(voc, monkeypatch, ENTRY, "{type: own}")
    for target in (voc.xml("t0").parent / "fixed", voc.xml("t0").parent / "a" / "b"):
        with pytest.raises(ValueError, match="where all XML files belong to the data set"):
            voc.examine(*settings, fix=target)
        assert not target.exists()
    assert not (voc.root / "out").exists()


@pytest.mark.parametrize("several", [False, True])
def test_the_held_out_images_are_those_of_training(voc: Clinic, monkeypatch: pytest.MonkeyPatch, several: bool) -> None:
    entry = f"[{ENTRY}, {ENTRY}]" if several else ENTRY  # two sets with the same ids, too
    config = load_config(voc.config, _own(voc, monkeypatch, entry, "{type: own, held_out: 0.4}")).config
    splits = [Split(f"train.{k}", entry, "", [RawImage(stem, "") for stem in _stems()])
              for k, entry in enumerate(config.data.train)]  # fmt: skip
    assert isinstance(config.data.val, OwnDataset)
    mark_held_out(config.data.val, splits)
    ids = [f"{k}:{split.images[i].id}" if several else split.images[i].id
           for k, split in enumerate(splits) for i in sorted(split.held_out or ())]  # fmt: skip
    judged = wiring.build_eval_dataset(config, ["a", "b"])
    assert ids == [judged.image_id(i) for i in range(len(judged))] and len(ids) == (7 if several else 4)


def _stems() -> list[str]:
    return [f"t{i}" for i in range(6)] + [f"v{i}" for i in range(3)]


def _held_out(voc: Clinic, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str], list[str]]:
    """Settings, the ids that training keeps and those held out (two of nine)."""
    settings = _own(voc, monkeypatch, ENTRY, "{type: own}")
    judged = wiring.build_split(load_config(voc.config, settings).config)
    held = [str(judged.image_id(i)) for i in range(len(judged))]
    return settings, [stem for stem in _stems() if stem not in held], held


def _image(voc: Clinic, stem: str) -> Path:
    return voc.root / "voc" / "VOC2007" / "JPEGImages" / f"{stem}.png"


def test_leaks_into_held_out_images(voc: Clinic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A picture of both parts is a leak, one twice in a part is not; the copy holds each picture once."""
    settings, kept, held = _held_out(voc, monkeypatch)
    assert len(held) == 2
    shutil.copy(_image(voc, held[0]), _image(voc, kept[0]))
    with Image.open(_image(voc, held[1])) as image:
        image.save(_image(voc, kept[1]), "BMP")  # another file with the same pixels
    shutil.copy(_image(voc, kept[2]), _image(voc, kept[3]))
    diagnosis = voc.examine(*settings, fix=tmp_path / "fixed")
    assert found(diagnosis) == {"leaks": 1, "pixel_leaks": 1, "repeated_images": 1}
    findings = diagnosis.findings.by_key
    assert findings["leaks"].severity == "error" and findings["repeated_images"].severity == "warning"
    assert f"train, held out: image '{held[0]}'" in findings["leaks"].examples[0].text
    left = sorted(path.stem for path in (tmp_path / "fixed" / "Annotations").iterdir())
    assert left == sorted({*kept, *held} - {kept[0], kept[1], kept[3]})
    assert found(voc.examine(*settings, *diagnosis.fixed[1:])) == {}


def test_a_class_that_is_held_out_only(voc: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _, held = _held_out(voc, monkeypatch)
    voc.replace(held[0], "<name>a</name>", "<name>c</name>")
    diagnosis = voc.examine(*settings)
    assert found(diagnosis) == {"classes_without_objects": 1, "classes_in_one_split": 1}
    assert "'c' has 1 in val, none in train" in diagnosis.findings.by_key["classes_in_one_split"].examples[0].text


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
