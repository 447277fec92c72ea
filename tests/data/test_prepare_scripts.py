"""datasets/prepare_coco.py and prepare_voc.py, with small archives on a local web server."""

import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from detres.data.download import Download
from tests.data.test_download import Server, server

__all__ = ["server"]  # the fixture


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "datasets" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return buffer.getvalue()


def tarred(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


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
