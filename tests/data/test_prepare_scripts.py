"""The scripts in datasets/, with small archives on a local web server or, for ImageNet, in a folder."""

import hashlib
import importlib.util
import io
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

from detres.files.download import Download
from tests.data.test_flat_images import write_devkit
from tests.files.test_download import Server, server

__all__ = ["server"]  # the fixture


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "datasets" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def zipped(*names: str, **files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in {**{name: name for name in names}, **files}.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def tarred(files: Mapping[str, str | bytes], mode: Literal["w", "w:gz"] = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, text in files.items():
            content = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def test_coco(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("prepare_coco")
    server.files["a.zip"] = zipped("annotations/instances_train2017.json", "annotations/instances_val2017.json")
    server.files["val2017.zip"] = zipped("val2017/1.jpg", "val2017/2.jpg")
    monkeypatch.setattr(module, "ANNOTATIONS", Download(server.url("a.zip")))
    monkeypatch.setattr(module, "IMAGES", {s: (Download(server.url(f"{s}.zip")), 2) for s in ("val2017", "train2017")})

    assert module.main(["--root", str(tmp_path), "--only", "val2017"]) == 0
    below = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    annotations = {f"coco/annotations/instances_{split}2017.json" for split in ("train", "val")}
    assert below == annotations | {"coco/val2017/1.jpg", "coco/val2017/2.jpg"}
    num_requests = len(server.ranges)
    assert module.main(["--root", str(tmp_path), "--only", "val2017"]) == 0
    assert len(server.ranges) == num_requests, "what is complete is not fetched again"

    assert module.main(["--root", str(tmp_path)]) == 1
    assert "train2017.zip: the server answers 404" in capsys.readouterr().err


def test_voc(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("prepare_voc")
    top = "VOCdevkit/VOC2007"
    for split, stem in (("trainval", "000005"), ("test", "000001")):
        names = {f"{top}/JPEGImages/{stem}.jpg": "", f"{top}/Annotations/{stem}.xml": ""}
        server.files[f"{split}.tar"] = tarred({**names, f"{top}/ImageSets/Main/{split}.txt": f"{stem}\n"})
    splits = [(Download(server.url(f"{split}.tar")), split, 1) for split in ("trainval", "test")]
    monkeypatch.setattr(module, "ARCHIVES", {"2007": splits})

    assert not module.is_complete(tmp_path / top, "test", 1)
    monkeypatch.setenv("DETRES_DATASETS", str(tmp_path))
    assert module.main([]) == 0
    assert len(list((tmp_path / top / "JPEGImages").iterdir())) == 2
    assert "test: complete, 1 images" in capsys.readouterr().out
    assert module.main([]) == 0
    assert len(server.ranges) == 2, "what is complete is not fetched again"

    (tmp_path / "file").write_text("")
    assert module.main(["--root", str(tmp_path / "file")]) == 1
    assert "prepare_voc: " in capsys.readouterr().err


def test_cifar10(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("prepare_cifar10")
    assert module.ARCHIVE.checksum == "md5:c58f30108f718f92721af3b95e74349a"
    archive = tarred({f"cifar-10-batches-py/{name}": name for name in module.MD5})
    server.files["c.tar.gz"] = archive
    monkeypatch.setattr(module, "ARCHIVE", Download(server.url("c.tar.gz"), len(archive), f"md5:{md5(archive)}"))
    assert module.main(["--root", str(tmp_path)]) == 1
    assert "cifar-10-batches-py: batches.meta, data_batch_1, " in capsys.readouterr().err
    for name in module.MD5:
        monkeypatch.setitem(module.MD5, name, md5(name.encode()))
    assert module.main(["--root", str(tmp_path)]) == 0
    assert "complete, 50000 training" in capsys.readouterr().out

    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    (folder / "data_batch_2").write_text("damaged")
    server.break_after = [700]  # the download breaks and is taken up where it broke
    num_requests = len(server.ranges)
    assert module.main(["--root", str(tmp_path)]) == 0
    assert server.ranges[num_requests:] == [None, "bytes=700-"]
    assert (folder / "data_batch_2").read_text() == "data_batch_2"

    (folder / "test_batch").unlink()
    server.files["c.tar.gz"] = archive[:-1] + b"x"
    assert module.main(["--root", str(tmp_path)]) == 1
    assert "is not the file published at" in capsys.readouterr().err
    assert not (folder / "test_batch").exists(), "nothing of an archive that was tampered with is unpacked"


def test_tiny_imagenet(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("prepare_tiny_imagenet")
    top = "tiny-imagenet-200"
    train = [f"{top}/train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in ("n01", "n02") for i in range(3)]
    val = {f"{top}/val/images/val_{i}.JPEG": str(i) for i in (0, 1)}
    labels = "val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t1\t2\t3\t4\n"
    server.files["t.zip"] = zipped(*train, **val, **{f"{top}/val/val_annotations.txt": labels})
    monkeypatch.setattr(module, "ARCHIVE", Download(server.url("t.zip")))
    for name, count in (("NUM_CLASSES", 2), ("NUM_TRAIN", 6), ("NUM_VAL", 2)):
        monkeypatch.setattr(module, name, count)

    assert not module.is_complete(tmp_path / top)
    assert module.main(["--root", str(tmp_path)]) == 0
    assert module.main(["--root", str(tmp_path)]) == 0
    assert len(server.ranges) == 1, "what is complete is not fetched again"
    assert sorted(os.listdir(tmp_path / top / "val")) == ["n01", "n02", "val_annotations.txt"]
    assert (tmp_path / top / "val" / "n02" / "val_0.JPEG").read_text() == "0"
    (tmp_path / train[0]).unlink()
    assert module.main(["--root", str(tmp_path)]) == 0 and (tmp_path / train[0]).is_file()


def write_imagenet(folder: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three archives in miniature, with their checksums and counts in place of the published ones."""
    wnids = ("n00000001", "n00000002")
    classes = {f"{wnid}.tar": tarred({f"{wnid}_{i}.JPEG": wnid for i in range(2)}) for wnid in wnids}
    truth = write_devkit(folder / "kit", [1, 3, 3], wnids={1: wnids[1], 3: wnids[0]})
    inside = module.GROUND_TRUTH.rpartition("/")[0]
    kit = {f"{inside}/{path.name}": path.read_bytes() for path in (truth, truth.with_name("meta.mat"))}
    contents = {
        "devkit": tarred(kit, "w:gz"),
        "val": tarred({f"ILSVRC2012_val_{i:08d}.JPEG": "" for i in (1, 2, 3)}),
        "train": tarred(classes),
    }
    for part, content in contents.items():
        (folder / module.ARCHIVES[part][0]).write_bytes(content)
        monkeypatch.setitem(module.ARCHIVES, part, (module.ARCHIVES[part][0], md5(content)))
    for name, count in (("NUM_CLASSES", 2), ("NUM_TRAIN", 4), ("NUM_VAL", 3)):
        monkeypatch.setattr(module, name, count)


def test_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("prepare_imagenet")
    arguments = ["--root", str(tmp_path), "--archives", str(tmp_path / "down")]
    assert module.main(arguments) == 1
    assert "devkit_t12.tar.gz: no such file; download it from https://image-net.org" in capsys.readouterr().err
    write_imagenet(tmp_path / "down", module, monkeypatch)
    assert module.main(arguments) == 0
    train = tmp_path / "imagenet" / "train"
    assert sorted(path.relative_to(train).as_posix() for path in train.rglob("*.JPEG")) == [
        f"n0000000{k}/n0000000{k}_{i}.JPEG" for k in (1, 2) for i in (0, 1)
    ]
    assert (train / "n00000002" / "n00000002_1.JPEG").read_text() == "n00000002"
    val = tmp_path / "imagenet" / "val"
    assert sorted(path.relative_to(val).as_posix() for path in val.rglob("*.JPEG")) == [
        *(f"n00000001/ILSVRC2012_val_0000000{i}.JPEG" for i in (2, 3)),
        "n00000002/ILSVRC2012_val_00000001.JPEG",
    ]
    assert sorted(os.listdir(tmp_path / "imagenet")) == ["ILSVRC2012_devkit_t12", "train", "val"]

    (train / "n00000001" / "n00000001_0.JPEG").unlink()
    assert module.main([*arguments, "--only", "train"]) == 1
    assert "imagenet: train is not whole after unpacking; delete it" in capsys.readouterr().err
    shutil.rmtree(train / "n00000001")  # as an interrupted run leaves it: some classes whole, some absent
    assert module.main([*arguments, "--only", "train"]) == 0
    (tmp_path / "down" / module.ARCHIVES["val"][0]).write_bytes(b"x")
    assert module.main(arguments) == 0, "what is complete is not checked again"


@pytest.mark.parametrize("name", ["../n00000001.tar", "n00000001.tar/x", "other.txt"])
def test_imagenet_archives_that_are_not_what_they_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    module = script("prepare_imagenet")
    write_imagenet(tmp_path / "down", module, monkeypatch)
    arguments = ["--root", str(tmp_path), "--archives", str(tmp_path / "down"), "--only", "train"]
    archive = tmp_path / "down" / module.ARCHIVES["train"][0]
    published = archive.read_bytes()
    archive.write_bytes(published[:-2000])
    assert module.main(arguments) == 1
    assert re.search(r"train.tar: damaged or incomplete: md5 \w+, expected \w+; download", capsys.readouterr().err)

    archive.write_bytes(tarred({name: "x"}))
    monkeypatch.setitem(module.ARCHIVES, "train", (archive.name, md5(archive.read_bytes())))
    assert module.main(arguments) == 1
    assert "in it, expected only archives n<8 digits>.tar" in capsys.readouterr().err
    assert not list((tmp_path / "imagenet").rglob("*.JPEG")) and not list((tmp_path / "imagenet").rglob(".unpacking*"))
