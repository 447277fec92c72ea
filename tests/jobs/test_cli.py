"""Bad input at the level of the commands: one clear message, exit code 1, nothing half-written."""

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detres import __version__, cli
from detres.data import image_io
from detres.engine.checkpoint import load_checkpoint
from tests.jobs.conftest import Outcome, Workshop

Detres = Callable[..., Outcome]


def _refused(outcome: Outcome, *needles: str) -> None:
    assert outcome.code == 1, outcome.out
    assert sum(line.startswith("detres: error: ") for line in outcome.err.splitlines()) == 1
    assert "Traceback" not in outcome.err
    for needle in needles:
        assert needle in outcome.err


def _nothing_half_written(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") or "partial" in path.name]


@pytest.fixture
def scenes(workshop: Workshop, tmp_path: Path) -> Path:
    """A copy of the detection data that a test may spoil: instances.json, test.json and images/."""
    folder = tmp_path / "scenes"
    shutil.copytree(workshop.data / "digits" / "train", folder / "images")
    shutil.copytree(workshop.data / "digits" / "test", folder / "images", dirs_exist_ok=True)
    for name, split in (("instances", "train"), ("test", "test")):
        shutil.copy(workshop.data / "digits" / "annotations" / f"instances_{split}.json", folder / f"{name}.json")
    return folder


@pytest.fixture
def train(workshop: Workshop, detres: Detres, scenes: Path, tmp_path: Path) -> Detres:
    """`detres train` for a step on the copied scenes, into tmp_path / run."""

    def run(*overrides: str) -> Outcome:
        sets = [
            f"data.{split}={{type: coco, annotations: {scenes}/{name}.json, images: {scenes}/images}}"
            for split, name in (("train", "instances"), ("val", "test"))
        ]
        output = [] if any(text.startswith("output=") for text in overrides) else [f"output={tmp_path / 'run'}"]
        return detres("train", "--config", workshop.config, *sets, "train.steps=3", *output, *overrides)

    return run


def _edit(scenes: Path, change: Callable[[dict[str, Any]], None], name: str = "instances") -> None:
    content = json.loads((scenes / f"{name}.json").read_text())
    change(content)
    (scenes / f"{name}.json").write_text(json.dumps(content))


# Images


def _remove(file: Path) -> None:
    file.unlink()


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-300])


def _resize(file: Path) -> None:
    Image.new("RGB", (33, 44)).save(file)


SPOILT = [(_remove, "does not exist"), (_truncate, "truncated or damaged"), (_resize, "its annotation says")]


@pytest.mark.parametrize(("spoil", "message"), SPOILT)
def test_a_bad_image_in_training(
    train: Detres, scenes: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    name = json.loads((scenes / "instances.json").read_text())["images"][4]["file_name"]
    spoil(scenes / "images" / name)
    _refused(train(), name, message, "Set data.on_bad_image to skip")
    _nothing_half_written(tmp_path / "run")
    outcome = train("data.on_bad_image=skip", f"output={tmp_path / 'again'}")
    assert outcome.code == 0, outcome.err
    assert f"skipped: {scenes}/images/{name}: " in outcome.out
    assert re.search("skipped in all: [12] unreadable", outcome.out), "once in each epoch that is begun"


@pytest.mark.parametrize(("spoil", "message"), SPOILT)
def test_a_bad_image_in_evaluation(
    workshop: Workshop, train: Detres, scenes: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    name = json.loads((scenes / "test.json").read_text())["images"][0]["file_name"]
    spoil(scenes / "images" / name)
    _refused(train(), name, message)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 2, "the training is not lost"
    outcome = train("data.on_bad_image=skip", "train.val_loss=true", f"output={tmp_path / 'again'}")
    assert outcome.code == 0, outcome.err
    assert "detres: warning: images could not be read, they are evaluated as images without detections" in outcome.err
    rows = json.loads((tmp_path / "again" / "eval" / "detections.json").read_text())
    assert rows and 500009 not in {row["image_id"] for row in rows}


@pytest.mark.parametrize(("spoil", "message"), SPOILT[:2])
def test_a_bad_image_in_prediction(
    workshop: Workshop, detres: Detres, scenes: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(file := sorted((scenes / "images").glob("*.jpg"))[1])
    arguments = ("predict", "--weights", workshop.runs / "tiny" / "best.pt", "--output", tmp_path / "out")
    images = (scenes / "images", *([file] if not file.exists() else []))
    outcome = detres(*arguments, *images)
    _refused(outcome, file.name)
    assert "on_bad_image to skip" not in outcome.err and not (tmp_path / "out").exists()
    if file.exists():
        assert message in outcome.err and "--skip-bad" in outcome.err
        outcome = detres(*arguments, *images, "--skip-bad")
        assert outcome.code == 0 and f"skipped {file}: " in outcome.out
        assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["images"]) == 13


def test_a_bad_image_in_the_pictures_of_a_results_file(
    workshop: Workshop, detres: Detres, scenes: Path, tmp_path: Path
) -> None:
    name = json.loads((scenes / "test.json").read_text())["images"][0]["file_name"]
    _truncate(scenes / "images" / name)
    (tmp_path / "none.json").write_text("[]")
    arguments = ("eval", "--config", workshop.config, "--detections", tmp_path / "none.json")
    val = f"data.val={{type: coco, annotations: {scenes}/test.json, images: {scenes}/images}}"
    _refused(detres(*arguments, val), name, "truncated")
    assert detres(*arguments, val, "data.on_bad_image=skip").code == 0


def test_odd_images_are_read(train: Detres, scenes: Path) -> None:
    files = [entry["file_name"] for entry in json.loads((scenes / "instances.json").read_text())["images"]]
    for file, mode in zip(files, ("L", "RGBA", "P", "CMYK", "I;16"), strict=False):
        picture = Image.open(scenes / "images" / file)
        suffix = "TIFF" if mode in ("CMYK",) else "PNG"
        converted = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
        converted.save(scenes / "images" / file, suffix)
    outcome = train()
    assert outcome.code == 0, outcome.err


# Annotations


def _bbox(box: list[float]) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][0].update(bbox=box)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_bbox([5, 5, 0, 10]), "a box of zero or negative size"),
        (_bbox([5, 5, -3, 10]), "a box of zero or negative size"),
        (_bbox([500, 500, 10, 10]), "a box outside the image"),
        (_bbox([float("nan"), 5, 10, 10]), "a box that is not four finite numbers"),
        (lambda content: content["annotations"][0].update(category_id=999), "an unknown category"),
        (lambda content: content["annotations"][0].update(image_id=999), "an unknown image"),
    ],
)
def test_bad_annotations_are_counted_or_refused(
    train: Detres, scenes: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    _edit(scenes, change)
    _refused(train("data.on_bad_box=error"), "instances.json", reason, "data.on_bad_box to drop")
    assert not (tmp_path / "run").exists()
    outcome = train("train.steps=1")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count(f"1 annotation with {reason}") == 1


def _another_class(content: dict[str, Any]) -> None:
    content["categories"].append({"id": 99, "name": "zebra"})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("instances", lambda c: c["images"].append(c["images"][0]), "image id 100003 occurs 2 times"),
        ("instances", lambda c: c["annotations"].append(c["annotations"][0]), "annotation id 1 occurs 2 times"),
        ("instances", lambda c: c["categories"].append(c["categories"][0]), "category id 1 occurs 2 times"),
        ("instances", lambda c: c.pop("categories"), "not a COCO instances file: expected a list"),
        ("instances", lambda c: c["images"].clear(), "the data set is empty"),
        ("instances", lambda c: c["annotations"].clear(), "images has an object; expected annotations to learn from"),
        ("test", _another_class, "data.val has classes that the training set lacks: ['zebra']"),
    ],
)
def test_bad_annotation_files(
    train: Detres, scenes: Path, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    _edit(scenes, change, name)
    _refused(train(), message)
    assert not (tmp_path / "run").exists()


def test_a_voc_annotation_without_size(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "VOC" / folder).mkdir(parents=True)
    (tmp_path / "VOC" / "Annotations" / "a.xml").write_text("<annotation><object><name>3</name></object></annotation>")
    (tmp_path / "VOC" / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    voc = f"data.train={{type: voc, root: {tmp_path}/VOC, split: train}}"
    outcome = detres("train", "--config", workshop.config, voc, f"output={tmp_path / 'run'}")
    _refused(outcome, "a.xml: the annotation has no usable <size>")
    assert not (tmp_path / "run").exists()


# Checkpoints


def test_a_truncated_checkpoint(workshop: Workshop, detres: Detres, train: Detres, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes((workshop.runs / "tiny" / "best.pt").read_bytes()[:5000])
    images = workshop.data / "digits" / "test"
    for outcome in (
        detres("predict", "--weights", cut, images, "--output", tmp_path / "out"),
        detres("eval", "--config", workshop.config, "--weights", cut, "--output", tmp_path / "out"),
        train(f"model.weights={cut}"),
        train(f"model.backbone.weights={cut}"),
    ):
        _refused(outcome, str(cut), "truncated or not a")
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    shutil.copy(cut, tmp_path / "run" / "last.pt")
    _refused(
        detres("train", "--config", workshop.config, f"output={tmp_path / 'run'}", "--resume"), "last.pt", "truncated"
    )
    assert (tmp_path / "run" / "last.pt").read_bytes() == cut.read_bytes()


def test_a_checkpoint_of_another_architecture_or_kind(
    workshop: Workshop, detres: Detres, train: Detres, tmp_path: Path
) -> None:
    best, classifier = workshop.runs / "tiny" / "best.pt", workshop.runs / "pretrain" / "best.pt"
    wider = "model.neck.channels=24"
    evaluate = ("eval", "--config", workshop.config, "--output", tmp_path / "out", "--weights")
    _refused(detres(*evaluate, best, wider), "best.pt", "another architecture", "24")
    _refused(detres(*evaluate, classifier), "best.pt", "holds a classifier, but the configuration describes a detector")
    _refused(train(f"model.weights={best}", wider), "best.pt", "another architecture")
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()


# Output


def test_output_in_place_of_which_is_a_file(workshop: Workshop, detres: Detres, train: Detres, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    best, images = workshop.runs / "tiny" / "best.pt", workshop.data / "digits" / "test"
    _refused(train(f"output={tmp_path / 'file'}"), "is a file, expected a folder", "output=")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        _refused(detres("predict", "--weights", best, images, "--output", output), str(output), "cannot write")
        _refused(
            detres("eval", "--config", workshop.config, "--weights", best, "--output", output), "file", "by --output"
        )
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_read_only_output_folder(train: Detres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_bytes", refuse)  # root may write everywhere, so the refusal is played
    _refused(train(), f"cannot write into the output folder {tmp_path / 'run'}: Permission denied")


def test_a_full_disk_leaves_the_previous_checkpoint_whole(
    train: Detres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def fill_the_disk(content: Any, file: Any) -> None:
        calls.append(file)
        if len(calls) > 1:
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", fill_the_disk)
    _refused(train(), "cannot write the checkpoint: No space left on device", "last.pt", "previous one is untouched")
    _nothing_half_written(tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 2


def test_a_loss_that_is_not_finite(train: Detres, tmp_path: Path) -> None:
    _refused(train("train.optimizer.lr=1e30", "train.warmup.steps=0"), "is not finite", "bad_batch_step", ".jpg")
    assert list((tmp_path / "run").glob("bad_batch_step*.json"))
    _nothing_half_written(tmp_path / "run")


def test_sigterm_during_a_prediction_leaves_nothing(
    workshop: Workshop, detres: Detres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = image_io.read_image

    def read_and_be_stopped(path: Path) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return read(path)

    monkeypatch.setattr("detres.jobs.predict.read_image", read_and_be_stopped)
    before = signal.getsignal(signal.SIGTERM)
    weights, images = workshop.runs / "tiny" / "best.pt", workshop.data / "digits" / "test"
    outcome = detres("predict", "--weights", weights, images, "--output", tmp_path / "out")
    assert (outcome.code, outcome.err) == (143, "detres: stopped by SIGTERM\n")
    assert not (tmp_path / "out").exists() and signal.getsignal(signal.SIGTERM) is before


# The command line itself


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2 and "required: command" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"detres {__version__}\n"


def test_mistakes_in_the_configuration(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    for override, message in (
        ("train.lr=3", "train.lr: unknown key"),
        ("train.optimizer.lr=-1", "train.optimizer.lr: got -1"),
        ("train.best_metric=AP5", "train.best_metric: got 'AP5', expected one of AP, AP50"),
        ("model.backbone.depth=20", "model.backbone.depth: got 20"),
    ):
        _refused(detres("train", "--config", workshop.config, override, f"output={tmp_path / 'run'}"), message)
    _refused(detres("pretrain", "--config", workshop.config), "use tools/train_net.py")
    _refused(detres("train", "--config", workshop.pretrain_config), "use tools/pretrain.py")
    _refused(detres("train", "--config", "coco_r5.yaml"), "did you mean coco_r50.yaml")
    _refused(detres("train", "--config", tmp_path), f"{tmp_path} is no file; shipped are")
    _refused(detres("doctor", "--config", workshop.config, "output=x"), "output: that is where", "--output FOLDER")
    assert not (tmp_path / "run").exists()


def test_config_show(workshop: Workshop, detres: Detres) -> None:
    outcome = detres("config", "show", "--config", workshop.config, "train.batch_size=2")
    assert outcome.code == 0 and "batch_size: 2" in outcome.out and "# override" in outcome.out


def test_overrides_may_stand_anywhere(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    outcome = detres(
        "train", f"output={tmp_path}", "--config", workshop.config, "train.steps=1", "--resume", "train.ema=null"
    )
    assert outcome.code == 0, outcome.err
    config = load_checkpoint(tmp_path / "last.pt")["config"]
    assert (config["train"]["steps"], config["train"]["ema"], config["output"]) == (1, None, str(tmp_path))


def test_an_argument_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["train", "--config", "demo", "--wieghts", "x"], ["predict", "--weights", "a", "b", "--nms"]):
        with pytest.raises(SystemExit) as caught:
            cli.main([*arguments, *(["--output", "c"] if arguments[0] == "predict" else [])])
        assert caught.value.code == 2 and "unrecognized arguments: --" in capsys.readouterr().err


def test_an_evaluation_without_the_split(workshop: Workshop, detres: Detres) -> None:
    best = workshop.runs / "tiny" / "best.pt"
    _refused(detres("eval", "--config", workshop.config, "--weights", best, "--split", "test"), "data.test: the config")


def test_every_command_begins_with_the_allocator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("detres.engine.allocator.use_allocator", asked.append)
    monkeypatch.delenv("DETRES_ALLOCATOR", raising=False)
    assert cli.main(["config", "show", "--config", "demo.yaml"]) == 0
    monkeypatch.setenv("DETRES_ALLOCATOR", "default")
    assert cli.main(["config", "show", "--config", "demo.yaml"]) == 0
    assert asked == ["tuned", "default"]
    monkeypatch.setenv("DETRES_ALLOCATOR", "fast")
    assert cli.main(["config", "show", "--config", "demo.yaml"]) == 1
    assert "DETRES_ALLOCATOR: got 'fast', expected default or tuned" in capsys.readouterr().err
