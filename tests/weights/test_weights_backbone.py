"""Loading classification backbones into detectors: prefixes, C4 heads, partial files, folded norms."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models import ResNet, resnet18, resnet34
from torchvision.ops import FrozenBatchNorm2d

from detres.weights import LoadedWeights, WeightsError, load_backbone, read_state_dict


class _Body(nn.Module):
    """Layers of a torchvision ResNet under the names of a detres backbone."""

    def __init__(self, network: nn.Module, stages: int = 4) -> None:
        super().__init__()
        for name in ("conv1", "bn1", *(f"layer{i + 1}" for i in range(stages))):
            self.add_module(name, getattr(network, name))


def _randomized(network: nn.Module) -> nn.Module:
    """The network with norms that do something."""
    for module in network.modules():
        if hasattr(module, "running_var"):
            for tensor, low in ((module.running_var, 0.5), (module.running_mean, -0.2), (module.weight, 0.5)):
                tensor.data.uniform_(low, low + 0.5)
            module.bias.data.uniform_(-0.2, 0.2)
    return network.eval()


def _resnet18(frozen: bool = False) -> ResNet:
    network = resnet18(norm_layer=FrozenBatchNorm2d if frozen else None)
    _randomized(network)
    return network


def _wrap(path: str, child: nn.Module, model: nn.Module | None = None) -> nn.Module:
    """A model that holds `child` at the dotted path."""
    model = model or nn.Module()
    *parents, name = path.split(".")
    parent = model
    for part in parents:
        if not hasattr(parent, part):
            parent.add_module(part, nn.Module())
        parent = getattr(parent, part)
    parent.add_module(name, child)
    return model


def _c4_detector() -> nn.Module:
    network = _resnet18(frozen=True)
    model = _wrap("backbone", _Body(network, stages=3))
    return _wrap("roi_heads.box_head.layer4", network.layer4, model)


def _fold(network: ResNet) -> dict[str, Tensor]:
    """The network's convolutions with its norms folded in, as such files are written."""
    state, norms = {}, {"conv1": "bn1", "conv2": "bn2", "0": "1"}
    modules = dict(network.named_modules())
    for name, conv in modules.items():
        if isinstance(conv, nn.Conv2d):
            parent, _, last = name.rpartition(".")
            norm = modules[f"{parent}.{norms[last]}".lstrip(".")]
            weight, bias = fuse_conv_bn_weights(
                conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            state |= {f"{name}.weight": weight.data, f"{name}.bias": bias.data}
    return state


def test_an_empty_file_is_an_error() -> None:
    with pytest.raises(WeightsError, match="nothing could be loaded"):
        load_backbone(_Body(resnet18()), {})


def test_weights_of_something_else_are_an_error() -> None:
    with pytest.raises(WeightsError, match=r"b\.pt: nothing could be loaded.*encoder\.weight"):
        load_backbone(_Body(resnet18()), LoadedWeights({"encoder.weight": torch.ones(3)}, source="b.pt"))


@pytest.mark.parametrize("there", ["", "backbone", "backbone.body", "body"])
@pytest.mark.parametrize("here", ["", "backbone", "backbone.body", "body"])
def test_every_prefix_to_every_prefix(there: str, here: str) -> None:
    network, body = _resnet18(), _Body(_resnet18(frozen=True))
    model = _wrap(here, body) if here else body
    state = {f"{there}.{key}".lstrip("."): tensor for key, tensor in _Body(network).state_dict().items()}
    state |= {"fc.weight": torch.ones(3, 512), "rpn.head.conv.weight": torch.ones(1)}
    report = load_backbone(model, state)
    for key, tensor in body.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[key]), key
    assert report.keys("missing") == []
    assert report.keys("skipped") == ["fc.weight", "rpn.head.conv.weight"]


def test_classifier_keeps_its_own_fc() -> None:
    model = _wrap("backbone", _Body(resnet18()))
    model.fc = nn.Linear(512, 1000)
    before = model.fc.weight.clone()
    report = load_backbone(model, resnet18().state_dict())
    assert torch.equal(model.fc.weight, before)
    assert set(report.keys("skipped")) == {"fc.weight", "fc.bias"}


def test_c4_detector_takes_conv5_into_its_head_and_gives_it_back() -> None:
    network, model = _resnet18(), _c4_detector()
    report = load_backbone(model, network.state_dict())
    assert report.keys("missing") == []
    last = model.roi_heads.box_head.layer4[1].conv2.weight
    assert torch.equal(last, network.layer4[1].conv2.weight)
    body = _Body(_resnet18(frozen=True))
    assert load_backbone(_wrap("backbone.body", body), model.state_dict()).keys("missing", "skipped") == []
    assert torch.equal(body.layer4[1].conv2.weight, last)


def test_partial_file_loads_with_what_is_there() -> None:
    network, body = _resnet18(), _Body(_resnet18(frozen=True))
    fresh = body.layer4[0].conv1.weight.clone()
    partial = {key: tensor for key, tensor in network.state_dict().items() if not key.startswith(("layer3", "layer4"))}
    report = load_backbone(body, partial)
    assert torch.equal(body.layer2[0].conv1.weight, network.layer2[0].conv1.weight)
    assert torch.equal(body.layer4[0].conv1.weight, fresh)
    assert {key.split(".")[0] for key in report.keys("missing")} == {"layer3", "layer4"}
    assert "layer3" in report.table() and "missing" in report.table()


def test_a_stage_behind_the_models_last_is_skipped() -> None:
    report = load_backbone(_Body(resnet18(), stages=3), resnet18().state_dict())
    assert {key.split(".")[0] for key in report.keys("skipped")} == {"layer4", "fc"}


@pytest.mark.parametrize(("file", "model"), [(resnet34, resnet18), (resnet18, resnet34)])
def test_another_depth_is_refused(file: type, model: type) -> None:
    body, state = _Body(model()), file().state_dict()
    before = body.conv1.weight.clone()
    with pytest.raises(WeightsError, match=r"another architecture \(0 of another shape.*layer1\.2\.conv1\.weight"):
        load_backbone(body, state)
    assert torch.equal(body.conv1.weight, before)
    load_backbone(body, state, strict=False)
    assert torch.equal(body.conv1.weight, state["conv1.weight"])


def test_another_width_is_refused_with_both_shapes() -> None:
    state = resnet18().state_dict()
    state["layer1.0.conv1.weight"] = torch.ones(64, 64, 1, 1)
    with pytest.raises(WeightsError, match=r"layer1\.0\.conv1\.weight is 64x64x1x1 in the file, 64x64x3x3 in the"):
        load_backbone(_Body(resnet18()), state)


def test_another_stem_is_refused() -> None:
    body = _Body(resnet18())
    body.conv1 = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3))
    with pytest.raises(WeightsError, match=r"conv1\.0\.weight is not in the file.*conv1\.weight is not in the model"):
        load_backbone(body, resnet18().state_dict())


@pytest.mark.parametrize("frozen", [True, False])
def test_folded_norms_compute_the_same(frozen: bool) -> None:
    network, other = _resnet18(), _resnet18(frozen)
    report = load_backbone(_Body(other), _fold(network))
    assert report.keys("missing", "skipped") == []
    assert "folded" in report.table()
    image = torch.randn(2, 3, 64, 64)
    other.fc = network.fc
    torch.testing.assert_close(other(image), network(image), rtol=1e-4, atol=1e-4)


def test_vgg_brings_its_fully_connected_layers_where_they_fit() -> None:
    model = _wrap("backbone.features", nn.Sequential(nn.Conv2d(3, 4, 3)))
    _wrap("roi_heads.box_head.fc6", nn.Linear(8, 6), model)
    _wrap("roi_heads.box_head.fc7", nn.Linear(6, 5), model)  # narrower than the file's
    file = nn.Module()
    file.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    file.classifier = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 6))
    report = load_backbone(model, file.state_dict())
    assert torch.equal(model.roi_heads.box_head.fc6.weight, file.classifier[0].weight)
    assert torch.equal(model.backbone.features[0].weight, file.features[0].weight)
    skipped = {f"{layer}.{part}" for layer in ("classifier.3", "features.2") for part in ("weight", "bias")}
    assert set(report.keys("skipped")) == skipped


def test_every_stage_of_a_cascade_starts_from_conv5() -> None:
    model = _c4_detector()
    for i in (0, 1):
        _wrap(f"roi_heads.earlier_stages.{i}.box_head.layer4", _resnet18(frozen=True).layer4, model)
    network = _resnet18()
    report = load_backbone(model, network.state_dict())
    assert report.keys("missing") == []
    stages = [model.roi_heads.box_head, *model.roi_heads.earlier_stages.children()]
    for head in (stages[0], *(stage.box_head for stage in stages[1:])):
        assert torch.equal(head.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
        assert torch.equal(head.layer4[0].bn1.running_mean, network.layer4[0].bn1.running_mean)
    folded = _fold(network)
    load_backbone(model, folded)
    assert torch.equal(stages[1].box_head.layer4[0].bn1.bias, folded["layer4.0.conv1.bias"])


def test_real_partial_weights(real_data: Path) -> None:
    folded = read_state_dict(real_data / "weights" / "resnet18_imagenet_bnfolded_conv1_to_layer3.npz")
    model = _c4_detector()
    report = load_backbone(model, folded)
    assert {key.split(".")[2] for key in report.keys("missing")} == {"layer4"}
    assert report.keys("skipped") == []
    assert torch.equal(model.backbone.conv1.weight, folded.state_dict["conv1.weight"])
    assert torch.equal(model.backbone.bn1.bias, folded.state_dict["conv1.bias"])


def test_real_partial_resnet50(real_data: Path) -> None:
    from torchvision.models import resnet50

    weights = read_state_dict(real_data / "weights" / "resnet50_imagenet_conv1_to_layer2.npz")
    report = load_backbone(_wrap("backbone.body", _Body(resnet50())), weights)
    assert len(report.keys("loaded")) == len(weights.state_dict)
    assert {key.split(".")[2] for key in report.keys("missing")} == {"layer3", "layer4"}
