"""detres' backbone in transformers itself: AutoBackbone, saving and loading, and detectors of the DETR family."""

import importlib
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detres.backbones import ResNet
from detres.weights import WeightsError
from tests.integrations.doc_example import run_examples

SMALL: dict[str, Any] = dict(
    d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=5, num_labels=3,
    use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def adapter() -> Any:
    """The module under test."""
    pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    return importlib.import_module("detres.integrations.transformers")


def detr(adapter: Any, kind: str = "Detr", **backbone: Any) -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        backbone_config=adapter.DetresBackboneConfig(**{"depth": 18, **backbone}), **SMALL
    )
    return getattr(transformers, f"{kind}ForObjectDetection")(config)


def backbone_in(detector: nn.Module, adapter: Any) -> Any:
    return next(module for module in detector.modules() if isinstance(module, adapter.DetresBackbone))


def loss_of(detector: Any, size: int = 64) -> torch.Tensor:
    box = dict(class_labels=torch.tensor([1]), boxes=torch.tensor([[0.5, 0.5, 0.3, 0.3]]))
    return detector(pixel_values=torch.randn(1, 3, size, size), labels=[box]).loss


def saved(folder: Path, network: nn.Module) -> str:
    torch.save(network.state_dict(), folder / "trained.pt")
    return str(folder / "trained.pt")


def test_frozen_stages_stay_frozen_when_loaded(adapter: Any, tmp_path: Path) -> None:
    config = adapter.DetresBackboneConfig(depth=18, frozen_stages=2)
    made = adapter.DetresBackbone(config)
    frozen = {name for name, parameter in made.named_parameters() if not parameter.requires_grad}
    assert any("layer1" in name for name in frozen) and not any("layer2" in name for name in frozen)
    made.save_pretrained(tmp_path)
    loaded = adapter.DetresBackbone.from_pretrained(tmp_path)
    assert {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad} == frozen
    loaded.train()
    assert {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad} == frozen


def test_the_page_s_example_runs(adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_examples("transformers", tmp_path, monkeypatch)
    assert [tuple(x.shape) for x in names["maps"]] == [(1, 512, 8, 12), (1, 2048, 2, 3)]
    assert names["loss"].isfinite()


def test_auto_backbone_makes_it_with_channels_and_maps(adapter: Any) -> None:
    from transformers import AutoBackbone

    backbone = AutoBackbone.from_config(adapter.DetresBackboneConfig(depth=18, out_indices=[1, 3])).eval()
    assert isinstance(backbone, adapter.DetresBackbone)
    assert (backbone.out_features, list(backbone.out_indices)) == (["stage1", "stage3"], [1, 3])
    assert backbone.channels == [64, 256]
    assert not hasattr(backbone.body, "layer4")
    x = torch.randn(1, 3, 64, 96)
    output = backbone(x, output_hidden_states=True)
    expected = backbone.body(x)
    assert torch.equal(output.feature_maps[0], expected["c2"]) and torch.equal(output.feature_maps[1], expected["c4"])
    assert len(output.hidden_states) == 3 and backbone(x).hidden_states is None
    assert torch.equal(backbone(x, return_dict=False)[0][1], expected["c4"])
    with torch.device("meta"):
        r50 = adapter.DetresBackbone(adapter.DetresBackboneConfig(out_features=["stage2", "stage4"]))
    assert r50.channels == [512, 2048]


def test_saving_and_loading_gives_the_same_backbone(adapter: Any, tmp_path: Path) -> None:
    from transformers import AutoConfig

    config = adapter.DetresBackboneConfig(
        depth=18, norm="frozen_batch", deep_stem=True, out_features=["stage2", "stage4"]
    )
    backbone = adapter.DetresBackbone(config)
    backbone.body.bn1.running_var.uniform_(1, 2)
    backbone.save_pretrained(tmp_path)
    again = adapter.DetresBackbone.from_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == again.config.to_dict()
    assert again.out_features == ["stage2", "stage4"] and again.config.norm == "frozen_batch"
    assert set(again.state_dict()) == set(backbone.state_dict())
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    fewer = adapter.DetresBackbone.from_pretrained(tmp_path, out_indices=[1])
    assert fewer.out_features == ["stage1"] and not hasattr(fewer.body, "layer2")


def test_weights_come_from_a_file_and_are_not_saved_by_name(adapter: Any, tmp_path: Path) -> None:
    trained = ResNet(18)
    config = adapter.DetresBackboneConfig(depth=18, weights=saved(tmp_path, trained))
    backbone = adapter.DetresBackbone(config)
    assert torch.equal(backbone.body.layer4[0].conv1.weight, trained.layer4[0].conv1.weight)
    backbone.save_pretrained(tmp_path / "hub")
    assert "trained.pt" not in (tmp_path / "hub" / "config.json").read_text()
    with pytest.raises(WeightsError, match="trained.pt"):
        adapter.DetresBackbone(adapter.DetresBackboneConfig(depth=34, weights=config.weights))


def test_loading_a_model_takes_its_own_files_and_says_so(
    adapter: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = adapter.DetresBackbone(adapter.DetresBackboneConfig(depth=18, out_indices=[1]))
    backbone.save_pretrained(tmp_path)
    other = adapter.DetresBackboneConfig(depth=18, out_indices=[1], weights=saved(tmp_path, ResNet(18)))
    again = adapter.DetresBackbone.from_pretrained(tmp_path, config=other)
    assert torch.equal(again.body.conv1.weight, backbone.body.conv1.weight)
    assert "trained.pt: not read" in caplog.text


@pytest.mark.parametrize("norm", ["batch", "frozen_batch"])
def test_a_detr_keeps_loaded_weights_and_replaces_norms(adapter: Any, tmp_path: Path, norm: str) -> None:
    trained = ResNet(18)
    for layer in trained.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(1, 2)
    detector = detr(adapter, norm=norm, weights=saved(tmp_path, trained))
    backbone = backbone_in(detector, adapter)
    state = backbone.body.state_dict()
    for name, tensor in trained.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(state[name], tensor), name
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in backbone.modules())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = backbone_in(detector.train(), adapter)(x).feature_maps[0], trained.eval()(x)["c5"]
    assert (found - expected).abs().max() < 1e-4 * expected.std()  # fixed statistics, training or not


def test_a_detr_starts_from_he_normal_values_and_learns(adapter: Any) -> None:
    detector = detr(adapter, frozen_stages=2).train()
    backbone = backbone_in(detector, adapter)
    weight = backbone.body.layer4[0].conv2.weight
    assert abs(weight.std() / (2 / (512 * 9)) ** 0.5 - 1) < 0.02  # not the DETR's own 0.02
    loss = loss_of(detector)
    loss.backward()
    assert loss.isfinite()
    learns = {name.split(".")[1] for name, p in backbone.named_parameters() if p.grad is not None}
    assert learns == {"layer2", "layer3", "layer4"}
    assert weight.grad is not None and weight.grad.abs().sum() > 0


def test_a_detr_is_saved_and_loaded_with_it(adapter: Any, tmp_path: Path) -> None:
    detector = detr(adapter).eval()
    detector.save_pretrained(tmp_path)
    again = type(detector).from_pretrained(tmp_path).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(pixel_values=x).logits, detector(pixel_values=x).logits)


def test_tensors_missing_in_a_checkpoint_get_initial_values(adapter: Any, tmp_path: Path) -> None:
    import transformers

    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("before transformers 5, a detector initialises the missing tensors of its backbone by its own rule")
    detector = detr(adapter)
    kept = {name: x for name, x in detector.state_dict().items() if ".layer4." not in name}
    detector.save_pretrained(tmp_path, state_dict=kept)
    body = backbone_in(type(detector).from_pretrained(tmp_path), adapter).body
    assert torch.equal(body.conv1.weight, backbone_in(detector, adapter).body.conv1.weight)
    assert abs(body.layer4[0].conv2.weight.std() / (2 / (512 * 9)) ** 0.5 - 1) < 0.02
    norm = body.layer4[0].bn1
    assert (norm.weight == 1).all() and (norm.bias == 0).all() and (norm.running_mean == 0).all()
    assert (norm.running_var == 1).all()


@pytest.mark.parametrize("kind", ["ConditionalDetr", "DeformableDetr"])
def test_others_of_the_family_take_it(adapter: Any, kind: str) -> None:
    detector = detr(adapter, kind, out_features=["stage2", "stage3", "stage4"]).train()
    loss = loss_of(detector, 128)
    loss.backward()
    gradient = backbone_in(detector, adapter).body.conv1.weight.grad
    assert loss.isfinite() and gradient is not None and gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(out_features=["stem"]), "stage1"),
        (dict(out_features=["stage3", "stage1"]), "in order"),
        (dict(out_features=["stage1"], out_indices=[2]), "contradict"),
        (dict(out_indices=[0]), "stage1"),
        (dict(out_indices=[7]), "out_indices"),
    ],
)
def test_wrong_features_are_named(adapter: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter.DetresBackboneConfig(depth=18, **options)


def test_registering_again_changes_nothing_and_a_backbone_pickles(adapter: Any) -> None:
    assert adapter.register() == (adapter.DetresBackboneConfig, adapter.DetresBackbone)
    backbone = adapter.DetresBackbone(adapter.DetresBackboneConfig(depth=18, out_indices=[1])).eval()
    again, x = pickle.loads(pickle.dumps(backbone)), torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x).feature_maps[0], backbone(x).feature_maps[0])


def test_without_transformers_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "detres.integrations.transformers", raising=False)
    with pytest.raises(ImportError, match="pip install transformers"):
        importlib.import_module("detres.integrations.transformers")
