"""detres' backbone in mmdetection: the real registry, configurations and modules, where mmdet is installed.

The package registry's mmcv comes without its compiled operators; a stand-in takes their place, so detectors are built
and their backbones and necks run, while heads are not called.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detres.backbones import ResNet
from detres.weights import WeightsError
from tests.integrations.doc_example import run_examples
from tests.integrations.standins import mmcv_ops

REASON = "needs mmdet, mmengine and mmcv (or mmcv-lite): pip install mmdet mmengine mmcv-lite"


@pytest.fixture(scope="module")
def models() -> Any:
    """mmdet's registry of models, ours registered."""
    pytest.importorskip("mmengine", reason=REASON)
    pytest.importorskip("mmcv", reason=REASON)
    pytest.importorskip("mmdet", reason=REASON)
    mmcv_ops.make_importable()
    importlib.import_module("detres.integrations.mmdet")
    return importlib.import_module("mmdet.registry").MODELS


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def build(models: Any, **options: Any) -> Any:
    return models.build(dict(type="DetresResNet", **options))


def test_the_page_s_example_runs(models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_examples("mmdetection", tmp_path, monkeypatch)
    assert [tuple(x.shape) for x in names["features"]] == [
        (1, 256, 16, 24), (1, 256, 8, 12), (1, 256, 4, 6), (1, 256, 2, 3), (1, 256, 1, 2),
    ]  # fmt: skip
    assert type(names["detector"].backbone).__name__ == "DetresResNet"


def test_it_computes_what_mmdets_resnet_computes_under_the_same_names(models: Any) -> None:
    for options in (
        dict(style="pytorch"),
        dict(style="caffe", num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,)),
        dict(style="caffe", strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), out_indices=(3,)),
    ):
        theirs = models.build(dict(type="ResNet", depth=50, frozen_stages=1, **options))
        theirs.eval()  # (which returns None)
        ours = build(models, depth=50, frozen_stages=1, **options).eval()
        assert set(ours.state_dict()) == set(theirs.state_dict())
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            for found, expected in zip(ours(x), theirs(x), strict=True):
                assert (found - expected).abs().max() < 1e-4 * expected.std()
        learns = {name for name, p in ours.named_parameters() if p.requires_grad}
        assert learns == {name for name, p in theirs.named_parameters() if p.requires_grad}


def test_resnext_has_mmdets_widths(models: Any) -> None:
    with torch.device("meta"):
        theirs = models.build(dict(type="ResNeXt", depth=101, groups=64, base_width=4))
        ours = build(models, depth=101, groups=64, base_width=4)
    shapes = {name: x.shape for name, x in ours.state_dict().items()}
    assert shapes == {name: x.shape for name, x in theirs.state_dict().items()}


def test_a_parent_s_init_weights_leaves_loaded_weights_alone(models: Any, tmp_path: Path) -> None:
    from mmengine.model import BaseModule

    class Detector(BaseModule):
        """A parent with a neck that has its own initialisation."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = build(models, depth=18, weights=str(tmp_path / "trained.pt"))
            channels = [64, 128, 256, 512]
            self.neck = models.build(dict(type="FPN", in_channels=channels, out_channels=16, num_outs=5))

    trained = ResNet(18)
    torch.save(trained.state_dict(), tmp_path / "trained.pt")
    detector = Detector()
    neck = tensors(detector.neck)
    detector.init_weights()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(detector.backbone.state_dict()[name], tensor), name
    assert any(not torch.equal(tensor, neck[name]) for name, tensor in detector.neck.state_dict().items())
    assert not hasattr(detector.backbone, "init_weights")


@pytest.mark.parametrize(("frozen_stages", "frozen"), [(-1, set()), (0, {"conv1", "bn1"}),
                                                       (1, {"conv1", "bn1", "layer1"})])  # fmt: skip
def test_frozen_stages_are_counted_as_mmdet_does(models: Any, frozen_stages: int, frozen: set[str]) -> None:
    backbone = build(models, depth=18, frozen_stages=frozen_stages, norm_eval=False).train()
    assert {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad} == frozen
    norms = [(name, layer) for name, layer in backbone.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {name.split(".")[0] for name, layer in norms if not layer.training} == frozen - {"conv1"}


def test_norms_stay_in_evaluation_mode_and_may_be_frozen(models: Any) -> None:
    backbone = build(models, depth=18, norm_cfg=dict(type="BN", requires_grad=False), norm_eval=True).train()
    norms = [layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert backbone.training and backbone.layer2.training
    assert norms and not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert backbone.conv1.weight.requires_grad
    before = tensors(backbone)
    backbone(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(x, before[name]) for name, x in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50")), "weights='torchvision:"),
        (dict(style="tensorflow"), "pytorch or caffe"),
        (dict(norm_cfg=dict(type="LN")), "norm_cfg.*SyncBN"),
        (dict(strides=(1, 2, 1, 1)), "strides"),
        (dict(num_stages=3, out_indices=(3,)), "out_indices"),
        (dict(frozen_stages=5), "frozen_stages"),
    ],
)
def test_wrong_settings_are_named(models: Any, options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build(models, **options)


def test_weights_of_another_depth_are_refused(models: Any, tmp_path: Path) -> None:
    torch.save(ResNet(34).state_dict(), tmp_path / "r34.pt")
    with pytest.raises(WeightsError, match="r34.pt"):
        build(models, depth=18, weights=str(tmp_path / "r34.pt"))


def test_without_mmdet_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdet", None)
    monkeypatch.setitem(sys.modules, "mmdet.registry", None)
    monkeypatch.delitem(sys.modules, "detres.integrations.mmdet", raising=False)
    with pytest.raises(ImportError, match="pip install mmdet"):
        importlib.import_module("detres.integrations.mmdet")
