"""`detres doctor`: a clean set has no findings, and every planted fault is found."""

import io
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detres.cli import main
from detres.data import image_io
from detres.jobs.doctor.checks import CHECKS
from tests.jobs.conftest import run_detres
from tests.jobs.doctor.conftest import Clinic, found

Content = dict[str, Any]
FIRST_XMIN = "<xmin>5</xmin>"  # of t0


def _bbox(*box: float) -> Callable[[Clinic], None]:
    return lambda clinic: clinic.edit(lambda content: content["annotations"][0].update(bbox=list(box)))


def _edit(change: Callable[[Content], Any], split: str = "train") -> Callable[[Clinic], None]:
    return lambda clinic: clinic.edit(lambda content: (change(content), None)[1], split)


def _file(change: Callable[[Path], Any]) -> Callable[[Clinic], None]:
    return lambda clinic: (change(clinic.image("train", 0)), None)[1]


def _again(content: Content, key: str, **changes: Any) -> None:
    content[key].append({**content[key][0], **changes})


def _resave_as_bmp(clinic: Clinic) -> None:
    with Image.open(clinic.image("train", 1)) as image:
        image.save(clinic.image("val", 0), "BMP")  # another file with the same pixels


def test_nothing_wrong(coco: Clinic) -> None:
    diagnosis = coco.examine()
    assert found(diagnosis) == {} and diagnosis.fixed == ()
    assert diagnosis.findings.by_key["class_balance"].rows[0] == {"class": "a", "train": 6, "val": 3}
    rows = diagnosis.findings.by_key["anchor_coverage"].rows
    assert [row["count"] for row in rows] == [12, 12, 0, 0] and rows[3]["IoU >= 0.5"] == "n/a"


PLANTED: dict[str, tuple[Callable[[Clinic], None], dict[str, int]]] = {
    "missing": (_file(Path.unlink), {"missing_images": 1}),
    "truncated": (_file(lambda p: p.write_bytes(p.read_bytes()[:-4000])), {"unreadable_images": 1}),
    "no image": (_file(lambda p: p.write_text("hello")), {"unreadable_images": 1}),
    "empty file": (_file(lambda p: p.write_bytes(b"")), {"unreadable_images": 1}),
    "a folder": (_file(lambda p: (p.unlink(), p.mkdir())), {"unreadable_images": 1}),
    "missing and without size": (
        _edit(lambda c: c["images"][0].update(file_name="absent.png", width=None)),
        {"missing_images": 1, "image_entries": 1},
    ),
    "other size": (_edit(lambda c: c["images"][0].update(width=90)), {"image_sizes": 1}),
    "no size": (_edit(lambda c: c["images"][0].pop("width")), {"image_entries": 1}),
    "no file name": (_edit(lambda c: c["images"][0].pop("file_name")), {"image_entries": 1}),
    "image id twice": (_edit(lambda c: c["images"][1].update(id=3)), {"image_ids": 1, "unknown_images": 2}),
    "image id no id": (_edit(lambda c: c["images"][1].update(id=[1])), {"image_ids": 1, "unknown_images": 2}),
    "file twice": (
        _edit(lambda c: _again(c, "images", id=99)),
        {"files_twice": 1, "repeated_images": 1, "images_without_objects": 1},
    ),
    "annotation id twice": (_edit(lambda c: c["annotations"][1].update(id=5)), {"annotation_ids": 1}),
    "unknown image": (_edit(lambda c: _again(c, "annotations", id=99, image_id=77)), {"unknown_images": 1}),
    "unknown class": (_edit(lambda c: c["annotations"][0].update(category_id=8)), {"unknown_categories": 1}),
    "category twice": (_edit(lambda c: _again(c, "categories")), {"categories": 1}),
    "category name twice": (_edit(lambda c: _again(c, "categories", id=9)), {"categories": 1}),
    "zero width": (_bbox(4, 6, 0, 16), {"boxes_without_size": 1}),
    "negative": (_bbox(30, 30, -9, 16), {"boxes_without_size": 1}),
    "outside": (_bbox(200, 6, 16, 16), {"boxes_outside": 1}),
    "partly outside": (_bbox(-5, 6, 21, 16), {"boxes_partly_outside": 1}),
    "not a number": (_bbox(4, float("nan"), 16, 16), {"boxes_not_finite": 1}),
    "three numbers": (_bbox(4, 6, 16), {"boxes_not_finite": 1}),
    "tiny": (_bbox(4, 6, 2, 2), {"tiny_boxes": 1}),
    "duplicate": (_edit(lambda c: _again(c, "annotations", id=99)), {"boxes_twice": 1}),
    "near duplicate": (
        _edit(lambda c: _again(c, "annotations", id=99, bbox=[4, 6, 15.5, 16])),
        {"boxes_nearly_twice": 1},
    ),
    "two classes": (_edit(lambda c: _again(c, "annotations", id=99, category_id=42)), {"boxes_of_two_classes": 1}),
    "area": (_edit(lambda c: c["annotations"][0].update(area=float("inf"))), {"areas": 1, "loading": 0}),
    "no objects": (
        _edit(lambda c: c.update(annotations=c["annotations"][2:])),
        {"images_without_objects": 1},
    ),
    "crowds": (
        _edit(lambda c: [row.update(iscrowd=1) for row in c["annotations"][:4]]),
        {"crowds": 4},
    ),
    "class without objects": (
        _edit(lambda c: _again(c, "categories", id=50, name="c")),
        {"classes_without_objects": 1},
    ),
    "class names": (
        _edit(lambda c: _again(c, "categories", id=50, name="A ")),
        {"class_names": 1, "classes_without_objects": 1},
    ),
    "class of val alone": (
        _edit(lambda c: _again(c, "categories", id=5, name="c"), "val"),
        {"classes_in_one_split": 1},
    ),
    "class of train alone": (
        _edit(lambda c: [row.update(category_id=7) for row in c["annotations"]], "val"),
        {"classes_in_one_split": 1},
    ),
    "leak": (lambda clinic: shutil.copy(clinic.image("train", 1), clinic.image("val", 0)) and None, {"leaks": 1}),
    "pixel leak": (_resave_as_bmp, {"pixel_leaks": 1}),
    "repeated": (
        lambda clinic: shutil.copy(clinic.image("train", 1), clinic.image("train", 0)) and None,
        {"repeated_images": 1},
    ),
    "not JSON": (
        lambda clinic: (clinic.root / "coco" / "train.json").write_text("{") and None,
        {"annotation_files": 1},
    ),
    "no list": (_edit(lambda c: c.pop("annotations")), {"annotation_files": 1, "images_without_objects": 6}),
    "a number as an image": (_edit(lambda c: c["images"].append(5)), {"annotation_files": 1}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_in_coco(coco: Clinic, name: str) -> None:
    plant, expected = PLANTED[name]
    plant(coco)
    counts = found(coco.examine())
    consequences = {"loading", "classes_without_objects", "classes_in_one_split"}
    if name == "not JSON" or name == "no list":
        consequences |= set(counts)
    for key, count in expected.items():
        assert counts.get(key, 0) >= min(count, 1) if key == "loading" else counts.get(key) == count, counts
    assert set(counts) - consequences <= set(expected), counts


def test_what_a_box_repeats_is_told(coco: Clinic) -> None:
    PLANTED["near duplicate"][0](coco)
    PLANTED["two classes"][0](coco)
    findings = coco.examine().findings.by_key
    (near,) = findings["boxes_nearly_twice"].examples
    assert "annotation number 12 in image 3" in near.text
    assert near.text.endswith("; IoU 0.97 with 'a' (4, 6, 20, 22), annotation number 0")  # 15.5 / 16
    assert near.shots[0].captions == ["a", "a"] and findings["boxes_nearly_twice"].severity == "warning"
    (other,) = findings["boxes_of_two_classes"].examples
    assert "train: 'b' (4, 6, 20, 22)" in other.text and "IoU 1.00 with 'a' (4, 6, 20, 22)" in other.text


def test_numbers_of_tiny_and_overhanging_boxes(coco: Clinic) -> None:
    coco.edit(lambda content: content["annotations"][0].update(bbox=[4, 6, 2, 9]))
    coco.edit(lambda content: content["annotations"][2].update(bbox=[-5, 6, 21, 16]))
    findings = coco.examine().findings.by_key
    assert findings["tiny_boxes"].examples[0].text.endswith("its shorter side has 2.0 pixels before resizing")
    assert findings["boxes_partly_outside"].examples[0].text.endswith("5.0 pixels beyond the border")


def test_all_at_once(coco: Clinic) -> None:
    """One fault does not hide the next."""
    for name in ("zero width", "unknown image", "category name twice", "file twice", "annotation id twice", "leak"):
        PLANTED[name][0](coco)
    coco.image("train", 2).unlink()
    counts = found(coco.examine())
    wanted = {"boxes_without_size", "unknown_images", "categories", "files_twice", "annotation_ids", "leaks"}
    assert wanted | {"missing_images", "loading"} <= set(counts)


def test_decompression_bombs_are_refused(coco: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_io, "MAX_PIXELS", 6000)
    with Image.new("RGB", (100, 100)) as image:
        image.save(coco.image("train", 0))
    finding = coco.examine().findings.by_key["unreadable_images"]
    assert finding.count == 9 and "more than the limit" in finding.examples[0].text  # 64 x 96 are too many as well


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (FIRST_XMIN, "<xmin>20</xmin>", {"boxes_without_size": 1}),
        (FIRST_XMIN, "<xmin>-9</xmin>", {"boxes_partly_outside": 1}),
        (FIRST_XMIN, "<xmin>x</xmin>", {"boxes_not_finite": 1}),
        ("<name>a</name>", "", {"annotation_files": 1, "loading": 1}),
        ("<width>96</width>", "", {"image_entries": 1, "loading": 1}),
        ("<width>96</width>", "<width>97</width>", {"image_sizes": 1}),
        ("<name>a</name>", "<name>B</name>", {"class_names": 1, "classes_in_one_split": 1}),
        (
            "<annotation>",
            "<!DOCTYPE a><annotation>",
            {"annotation_files": 1, "loading": 1, "images_without_objects": 1},
        ),
        ("</annotation>", "", {"annotation_files": 1, "loading": 1, "images_without_objects": 1}),
    ],
)
def test_planted_in_voc(voc: Clinic, old: str, new: str, expected: dict[str, int]) -> None:
    assert found(voc.examine()) == {}
    voc.replace("t0", old, new)
    assert found(voc.examine()) == expected


def test_lists_of_voc(voc: Clinic) -> None:
    path = voc.root / "voc" / "VOC2007" / "ImageSets" / "Main" / "train.txt"
    path.write_text(path.read_text() + "t0\nv0\nabsent\n")
    counts = found(voc.examine())
    assert counts["image_ids"] == 1 and counts["leaks"] == 1
    assert counts["annotation_files"] == 1 and counts["missing_images"] == 1  # of `absent`
    assert "unknown_categories" in found(voc.examine("data.train.class_names=[a]", "data.val.class_names=[a]"))
    path.unlink()
    assert found(voc.examine())["annotation_files"] >= 1


def test_what_training_refuses_is_an_error(coco: Clinic) -> None:
    PLANTED["zero width"][0](coco)
    assert coco.examine().findings.by_key["boxes_without_size"].severity == "warning"
    refused = coco.examine("data.on_bad_box=error").findings
    assert refused.by_key["boxes_without_size"].severity == refused.by_key["loading"].severity == "error"


def test_one_set_as_both_splits(coco: Clinic) -> None:
    diagnosis = coco.examine("data.val.annotations=coco/train.json", "data.val.images=coco/train")
    assert found(diagnosis) == {"same_split": 1}


def test_a_class_of_the_users_own(coco: Clinic) -> None:
    """It gives out only what it kept, and says what it left out."""
    arguments = (
        "{type: 'detres.data.coco:CocoDataset', args: {annotations: ROOT/coco/train.json, images: ROOT/coco/train}}"
    )
    own = f"data.train={arguments.replace('ROOT', str(coco.root))}"
    assert found(coco.examine(own)) == {}
    PLANTED["zero width"][0](coco)
    assert found(coco.examine(own)) == {"annotation_files": 1}


def test_class_balance(coco: Clinic) -> None:
    rows = [{"image_id": 3, "category_id": 7, "bbox": [0.5 + i % 20, i // 20, 16, 16]} for i in range(600)]
    coco.edit(lambda content: content["annotations"].extend(rows))
    diagnosis = coco.examine()
    assert found(diagnosis) == {"class_balance": 1}
    assert "'b': 6 in the training set, 'a': 606" in diagnosis.findings.by_key["class_balance"].examples[0].text


def test_the_command(coco: Clinic, tmp_path: Path) -> None:
    arguments = ("doctor", "--config", coco.config, "--output", tmp_path / "page")
    outcome = run_detres(*arguments)
    assert outcome.code == 0 and f"{len(CHECKS)} checks: 0 with errors, 0 with warnings" in outcome.out
    assert "doctor.html" in outcome.out and (tmp_path / "page" / "doctor.json").is_file()
    assert "\r" not in outcome.err  # plain lines, as this is no terminal
    coco.edit(lambda content: content["images"][0].update(file_name="\x1b[31m\u202e.png"))
    outcome = run_detres(*arguments)
    assert outcome.code == 1 and "?[31m?.png does not exist" in outcome.out and "\x1b" not in outcome.out
    assert run_detres(*arguments, "--workers", 0).code == 1


def test_exit_codes(coco: Clinic, tmp_path: Path) -> None:
    """Warnings are no failure; errors are, and so is a copy that could not be written."""
    arguments = ("doctor", "--config", coco.config, "--output", tmp_path / "page")
    PLANTED["zero width"][0](coco)
    assert run_detres(*arguments).code == 0
    (tmp_path / "file").write_text("")
    outcome = run_detres(*arguments, "--fix", tmp_path / "file" / "fixed")
    assert outcome.code == 1 and "no cleaned copy was written" in outcome.out
    coco.image("train", 0).unlink()
    assert run_detres(*arguments, "--fix", tmp_path / "fixed").code == 1 and (tmp_path / "fixed").is_dir()
    with redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit) as stopped:
        main(["doctor", "--help"])
    assert stopped.value.code == 0 and "exit code: 0 when nothing worse" in " ".join(shown.getvalue().split())


def test_image_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRES_DATASETS", str(tmp_path))
    config = tmp_path / "folders.yaml"
    config.write_text(
        "model: {type: classifier, backbone: {type: resnet, depth: 18}}\n"
        "data: {train: {type: image_folder, root: train}, val: {type: image_folder, root: val}}\n"
        "train: {batch_size: 2, steps: 1, optimizer: {type: sgd, lr: 0.01}, schedule: {type: constant}}\n"
        "eval: {metric: classification}\n"
    )
    for number, (split, name) in enumerate([(s, n) for s in ("train", "val") for n in ("cat", "dog")]):
        for k in range(3):
            path = tmp_path / split / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, k, 0)).save(path)
    clinic = Clinic(tmp_path, config)
    assert found(clinic.examine()) == {}
    (tmp_path / "train" / "cat" / "0.png").write_text("no")
    shutil.copy(tmp_path / "train" / "dog" / "1.png", tmp_path / "val" / "cat" / "2.png")
    (tmp_path / "val" / "cow").mkdir()
    counts = found(clinic.examine())
    assert counts["unreadable_images"] == 1 and counts["leaks"] == 1
    assert counts["annotation_files"] == 1 and counts["classes_in_one_split"] == 1 and "loading" in counts
    with pytest.raises(ValueError, match="image_folder; only COCO files, folders in VOC"):
        clinic.examine(fix=tmp_path / "fixed")


def test_bccd(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its two boxes of zero size."""
    monkeypatch.setenv("DETRES_DATASETS", str(real_data))
    diagnosis = Clinic(tmp_path, Path("bccd.yaml")).examine()
    assert found(diagnosis) == {"boxes_without_size": 2}
    texts = " ".join(example.text for example in diagnosis.findings.by_key["boxes_without_size"].examples)
    assert "BloodImage_00338" in texts and "BloodImage_00343" in texts
