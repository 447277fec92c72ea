"""Reading weights from files and from torchvision's table, whole and broken."""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detres.engine.checkpoint import VERSION
from detres.weights import WeightsError, read_state_dict, sources

STATE = {"conv1.weight": torch.arange(12.0).reshape(2, 6), "conv1.bias": torch.ones(2), "steps": torch.tensor(3)}


def _checkpoint(**changes: Any) -> dict[str, Any]:
    content = {"format": "detres", "version": 1, "kind": "detector", "config": {"model": {"type": "faster_rcnn"}}}
    return {**content, "class_names": ["cat", "dog"], "model": STATE, "ema": None, **changes}


def _same(got: dict[str, torch.Tensor]) -> bool:
    return got.keys() == STATE.keys() and all(torch.equal(got[key], STATE[key]) for key in STATE)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.pt"
    path.touch()
    with pytest.raises(WeightsError, match=r"empty\.pt: the file is empty"):
        read_state_dict(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: does not exist; expected a weights file"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ".safetensors", ".npz"])
def test_every_format_gives_the_same_tensors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(STATE, path)
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps({key: tensor.numpy() for key, tensor in STATE.items()}))
    elif suffix == ".npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in STATE.items()})
    else:
        torch.save(STATE, path)
    loaded = read_state_dict(str(path))
    assert _same(loaded.state_dict)
    assert loaded.kind == "state_dict" and loaded.config is None and loaded.source == str(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.95])
def test_truncated_files_say_so(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"weights{suffix}"
    test_every_format_gives_the_same_tensors(tmp_path, suffix)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(WeightsError, match=str(path)):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_files_of_something_else_say_so(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_text("<html>404: not found</html>")
    with pytest.raises(WeightsError, match=str(path)):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=str(path)):
        read_state_dict(path)


class _Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_torch_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"model": _Malicious(f"touch {trace}")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"asks for foreign code \((posix|nt)\.system\)"):
        read_state_dict(path)
    assert not trace.exists()


def test_objects_in_npz_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(WeightsError, match="Python objects are not read"):
        read_state_dict(path)


def test_detres_checkpoint_tells_classes_config_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save(_checkpoint(), path)
    loaded = read_state_dict(path)
    assert _same(loaded.state_dict)
    assert (loaded.class_names, loaded.kind, loaded.background) == (("cat", "dog"), "detector", "last")
    assert loaded.config == {"model": {"type": "faster_rcnn"}}
    torch.save(_checkpoint(config={"model": {"roi_heads": {"background": "first"}}}), path)
    assert read_state_dict(path).background == "first"


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    path, mean = tmp_path / "last.pt", {"conv1.weight": torch.full((2, 6), 7.0)}
    torch.save(_checkpoint(ema=mean), path)
    state = read_state_dict(path).state_dict
    assert torch.equal(state["conv1.weight"], mean["conv1.weight"])
    assert torch.equal(state["conv1.bias"], STATE["conv1.bias"])


@pytest.mark.parametrize("changes", [{"version": 99}, {"kind": "poem"}, {"model": None}])
def test_checkpoints_of_another_version_or_kind_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "last.pt"
    torch.save(_checkpoint(**changes), path)
    with pytest.raises(WeightsError, match=r"last\.pt: .*checkpoint"):
        read_state_dict(path)


@pytest.mark.parametrize("container", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapped_state_dicts(tmp_path: Path, container: str, prefix: str) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save({"epoch": 3, container: {prefix + key: tensor for key, tensor in STATE.items()}}, path)
    assert _same(read_state_dict(path).state_dict)


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), {"epoch": 3}, {}])
def test_files_without_named_tensors_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"other\.pt: holds"):
        read_state_dict(path)


def test_torchvisions_first_detection_names_are_brought_up_to_date(tmp_path: Path) -> None:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    with torch.device("meta"):
        today = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    old = {re.sub(r"(_blocks\.\d)\.0|(head\.conv)\.0\.0", r"\1\2", key): torch.zeros(1) for key in today}
    assert "rpn.head.conv.weight" in old and "backbone.fpn.layer_blocks.3.bias" in old
    for names in (old, dict.fromkeys(today, torch.zeros(1))):
        torch.save(names, tmp_path / "detector.pth")
        assert read_state_dict(tmp_path / "detector.pth").state_dict.keys() == today.keys()


def test_unknown_torchvision_name_suggests_the_nearest() -> None:
    with pytest.raises(WeightsError, match=r"torchvision:ResNet50_Weights\.IMAGENET1K_V2"):
        read_state_dict("torchvision:Resnet50_Weights.IMAGENET1K_V2")
    with pytest.raises(WeightsError, match="no weights of that name"):
        read_state_dict("torchvision:")


def test_torchvision_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match=f"Name or service.*put it into {tmp_path}/checkpoints"):
        read_state_dict("torchvision:ResNet18_Weights.IMAGENET1K_V1")


def test_torchvision_weights_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save(STATE, tmp_path / "checkpoints" / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    loaded = read_state_dict("torchvision:FasterRCNN_ResNet50_FPN_Weights.COCO_V1")
    assert _same(loaded.state_dict)
    assert loaded.background == "first"
    assert len(loaded.class_names) == 90 and loaded.class_names[0] == "person"


def test_the_checkpoint_version_is_that_of_the_engine() -> None:
    assert sources._VERSION == VERSION, "detres.weights and detres.engine, which do not know each other, must agree"
