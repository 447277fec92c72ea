"""Torch files, zip and legacy: training checkpoints come out as data, without the libraries that wrote them."""

import argparse
import pickle
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detres.files.restricted import Foreign, UnsafeFileError, read_torch

ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def through(content: Any, folder: Path, zipped: bool) -> Any:
    path = folder / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return read_torch(path)


@pytest.fixture
def foreign_modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Look-alikes of classes in libraries that are there for writing only; `hide` them for reading."""

    class HistoryBuffer:
        def __init__(self, history: list[float]) -> None:
            self._log_history = np.array(history)
            self.statistics_methods = {"min": HistoryBuffer.min}

        def min(self) -> float:
            return float(self._log_history.min())

        def __setstate__(self, state: object) -> None:
            raise AssertionError("the class itself was used")

    class CfgNode(dict):
        def __init__(self, *items: Any) -> None:
            super().__init__(*items)
            self.__dict__["__immutable__"] = True

    names = {"mmengine.logging.history_buffer": HistoryBuffer, "yacs.config": CfgNode}
    for name, cls in names.items():
        for part in [name[:end] for end in (*(i for i, c in enumerate(name) if c == "."), None)]:
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        cls.__module__, cls.__qualname__ = name, cls.__name__
        setattr(sys.modules[name], cls.__name__, cls)
    HistoryBuffer.min.__module__, HistoryBuffer.min.__qualname__ = HistoryBuffer.__module__, "HistoryBuffer.min"
    return {"HistoryBuffer": HistoryBuffer, "CfgNode": CfgNode}


@ZIPPED
def test_tensors_of_every_kind(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    content = OrderedDict(
        plain=base,
        view=base[1:, ::2],
        turned=base.t(),
        parameter=torch.nn.Parameter(torch.ones(2)),
        half=torch.ones(2, dtype=torch.float16),
        brain=torch.ones(2, dtype=torch.bfloat16),
        count=torch.tensor(7),
        truth=torch.tensor([True, False]),
        empty=torch.zeros(0, 4),
    )
    read = through(content, tmp_path, zipped)
    assert type(read) is OrderedDict and list(read) == list(content)
    for name, tensor in content.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
    assert read["view"].untyped_storage().data_ptr() == read["plain"].untyped_storage().data_ptr()


@ZIPPED
def test_an_mmengine_checkpoint(
    zipped: bool, tmp_path: Path, foreign_modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {
        "state_dict": OrderedDict(weight=torch.ones(2)),
        "message_hub": {"log_scalars": {"loss": foreign_modules["HistoryBuffer"]([3.0, 1.0])}},
        "meta": {"cfg": foreign_modules["CfgNode"]({"MODEL": {"DEPTH": 50}}), "epoch": np.int64(3)},
    }
    path = tmp_path / "epoch_3.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mmengine", "yacs")]:
        monkeypatch.delitem(sys.modules, name)
    read = read_torch(path)
    assert not any(name.startswith(("mmengine", "yacs")) for name in sys.modules)
    torch.testing.assert_close(read["state_dict"]["weight"], torch.ones(2))
    buffer = read["message_hub"]["log_scalars"]["loss"]
    name = "mmengine.logging.history_buffer.HistoryBuffer"
    assert isinstance(buffer, Foreign) and buffer.name == name and str(buffer) == f"<{name}, not imported>"
    np.testing.assert_array_equal(buffer.state["_log_history"], [3.0, 1.0])
    assert buffer.state["statistics_methods"] == {"min": f"{name}.min"}
    assert read["meta"] == {"cfg": {"MODEL": {"DEPTH": 50}}, "epoch": 3}
    assert vars(read["meta"]["cfg"]) == {}


@ZIPPED
def test_what_training_scripts_add(zipped: bool, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    content = {
        "args": argparse.Namespace(lr=0.1, output=Path("/runs/a"), dtype=np.float32),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "best": defaultdict(list, ap=[np.float64(0.5)]),
        "arrays": (np.arange(6, dtype=np.float16).reshape(2, 3), np.asfortranarray(np.eye(2)), np.array(3)),
        "version": torch.__version__,
        "others": [torch.Size([2]), torch.device("cpu"), torch.float16, {1}, frozenset([2]), 1j, b"\xff", None],
    }
    read = through(content, tmp_path, zipped)
    assert read["args"].name == "argparse.Namespace"
    assert read["args"].state == {"lr": 0.1, "output": "/runs/a", "dtype": "numpy.float32"}
    assert read["optimizer"] == content["optimizer"] and read["schedule"] == content["schedule"]
    assert type(read["best"]) is dict and read["best"] == {"ap": [0.5]}
    for array, expected in zip(read["arrays"], content["arrays"], strict=True):
        np.testing.assert_array_equal(array, expected, strict=True)
    assert type(read["version"]) is str and read["version"] == str(torch.__version__)
    assert read["others"] == content["others"]


@pytest.mark.parametrize("spelling", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_both_spellings_of_numpy(spelling: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": np.arange(3), "b": np.float32(2)}, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    for known in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        written = written.replace(known, spelling)
    path.write_bytes(written)
    read = read_torch(path)
    np.testing.assert_array_equal(read["a"], np.arange(3))
    assert read["b"] == 2


def test_unknown_classes_are_named(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)  # a whole model rather than its state dict
    with pytest.raises(UnsafeFileError, match=r"weights\.pth: .*torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"):
        through({"model": layer}, tmp_path, zipped=True)


def test_the_list_of_safe_names_stays_as_it_was(tmp_path: Path) -> None:
    through({"a": np.arange(3)}, tmp_path, zipped=True)
    before = torch.serialization.get_safe_globals()
    through({"a": np.arange(3)}, tmp_path, zipped=True)
    assert set(torch.serialization.get_safe_globals()) == set(before)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "weights.pth", weights_only=True)


@ZIPPED
def test_truncated_files(zipped: bool, tmp_path: Path) -> None:
    through({"weight": torch.ones(100)}, tmp_path, zipped)
    whole = (tmp_path / "weights.pth").read_bytes()
    for length in range(0, len(whole) - 1, 97):
        (tmp_path / "part.pth").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"part\.pth: truncated or not a torch file \(.+\); copy or download"):
            read_torch(tmp_path / "part.pth")


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps({"weight": np.ones(2)}))
    with pytest.raises(ValueError, match=r"is a pickle that torch\.save did not write; name it \.pkl"):
        read_torch(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(ValueError, match="is a compressed zip file"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(ValueError, match="is a TorchScript program"):
        read_torch(path)
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "pickle")
    with pytest.raises(ValueError, match=r"is a tar file, as torch wrote it before 0\.2"):
        read_torch(path)
    torch.save({"weight": torch.ones(2)}, path, pickle_protocol=4)
    with pytest.raises(ValueError, match="written in pickle protocol 4, torch reads the default, 2, only; save"):
        read_torch(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="truncated or not a torch file"):
        read_torch(path)
