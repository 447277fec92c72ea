"""setup.py: what is installed is whole, and finds the configurations that travel with it."""

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def folders_with_code(package: Path) -> set[Path]:
    return {path.parent for path in package.rglob("*.py")}


def test_every_folder_of_code_is_a_package() -> None:
    # find_packages leaves out what has no __init__.py without a word.
    missing = [folder for folder in folders_with_code(ROOT / "detres") if not (folder / "__init__.py").is_file()]
    assert missing == []


def test_a_wheel_holds_all_code_and_configs_and_finds_them(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="70.1", reason="building a wheel needs setuptools")
    source, installed = tmp_path / "source", tmp_path / "installed"
    for name in ("detres", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)

    for path in (*(ROOT / "detres").rglob("*.py"), ROOT / "detres" / "py.typed"):
        assert (installed / path.relative_to(ROOT)).is_file(), f"the wheel lacks {path}"
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert (installed / "detres" / path.relative_to(ROOT)).is_file(), f"the wheel lacks {path}"
    code = "from detres.config import load_config; print(load_config('voc_r101').files[0])"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert Path(run.stdout.strip()) == (installed / "detres/configs/base/faster_rcnn_fpn.yaml").resolve()


def test_the_package_runs_as_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["detres", "config", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("detres", run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: detres config")
