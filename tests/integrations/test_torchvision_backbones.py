"""Our backbones in torchvision's detectors, and torchvision's backbones in ours."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import (
    FCOS,
    FasterRCNN,
    KeypointRCNN,
    MaskRCNN,
    RetinaNet,
    fasterrcnn_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from detres import wiring
from detres.backbones import FPN, BackboneWithFPN, FeatureSpec, ResNet
from detres.config import load_config
from detres.integrations.torchvision import TorchvisionBackbone, torchvision_backbone
from detres.jobs.benchmark.twins import randomise
from detres.structures import GroundTruth, ImageBatch
from tests.integrations.doc_example import run_examples

SIZES = {"min_size": 64, "max_size": 128}
FEW = {
    "rpn_post_nms_top_n_train": 20,
    "rpn_post_nms_top_n_test": 10,
    "box_batch_size_per_image": 8,
    "box_detections_per_img": 3,
    **SIZES,
}
C3_TO_C5 = ("c3", "c4", "c5")


def small_resnet(**options: Any) -> ResNet:
    return ResNet(18, **options)


def images_and_targets() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    boxes = torch.tensor([[5.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 55.0]])
    target = {
        "boxes": boxes,
        "labels": torch.tensor([1, 2]),
        "masks": torch.ones(2, 64, 96, dtype=torch.uint8),
        "keypoints": torch.cat([boxes.reshape(2, 2, 2) + 1.0, torch.ones(2, 2, 1)], dim=2),
    }
    empty = {name: value[:0] for name, value in target.items()}
    return [torch.rand(3, 64, 96), torch.rand(3, 64, 80)], [target, {**empty, "masks": torch.zeros(0, 64, 80)}]


def pyramid(**options: Any) -> nn.Module:
    return torchvision_backbone(small_resnet(**options), fpn="maxpool", fpn_channels=32)


def retina_pyramid() -> nn.Module:
    return torchvision_backbone(small_resnet(out_features=C3_TO_C5), fpn="conv", fpn_channels=32)


def one_map_detector(backbone: ResNet) -> FasterRCNN:
    return FasterRCNN(
        torchvision_backbone(backbone),
        3,
        rpn_anchor_generator=AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
        **FEW,
    )


DETECTORS = {
    "FasterRCNN": lambda: FasterRCNN(pyramid(), 3, **FEW),
    "MaskRCNN": lambda: MaskRCNN(pyramid(), 3, **FEW),
    "KeypointRCNN": lambda: KeypointRCNN(pyramid(), 3, num_keypoints=2, **FEW),
    "RetinaNet": lambda: RetinaNet(retina_pyramid(), 3, **SIZES),
    "FCOS": lambda: FCOS(retina_pyramid(), 3, **SIZES),
    "C4": lambda: one_map_detector(small_resnet(out_features=["c4"])),
    "DC5": lambda: one_map_detector(small_resnet(out_features=["c5"], dilated_c5=True)),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_of_torchvision_trains_and_predicts(name: str) -> None:
    model = DETECTORS[name]()
    images, targets = images_and_targets()
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert len(losses) >= 2 and all(torch.isfinite(loss) for loss in losses.values())
    last = [p for n, p in model.backbone.named_parameters() if n.startswith("body.layer")][-1]
    assert last.grad is not None and float(last.grad.abs().sum()) > 0
    with torch.no_grad():
        found = model.eval()(images)
    assert len(found) == 2 and all(f["boxes"].shape == (len(f["scores"]), 4) for f in found)


@pytest.mark.parametrize(
    ("make", "names", "strides"),
    [
        (pyramid, ["0", "1", "2", "3", "pool"], [4, 8, 16, 32, 64]),
        (retina_pyramid, ["0", "1", "2", "p6", "p7"], [8, 16, 32, 64, 128]),
        (lambda: torchvision_backbone(small_resnet(), fpn="none"), ["0", "1", "2", "3"], [4, 8, 16, 32]),
        (lambda: torchvision_backbone(small_resnet(out_features=["c4"])), ["0"], [16]),
    ],
)
def test_maps_are_named_as_in_torchvision(make: Any, names: list[str], strides: list[int]) -> None:
    backbone = make().eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 128, 256))
    assert list(maps) == names
    for x, stride in zip(maps.values(), strides, strict=True):
        assert x.shape == (1, backbone.out_channels, 128 // stride, 256 // stride)


def test_maps_of_several_widths_need_a_pyramid() -> None:
    with pytest.raises(ValueError, match='one width.*pass fpn="maxpool"'):
        torchvision_backbone(small_resnet())


@pytest.mark.parametrize("version", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_weights_of_torchvision_load_and_give_its_outputs(version: str) -> None:
    offline = {"weights": None, "weights_backbone": None, "num_classes": 3, **SIZES}
    if version == "fasterrcnn_resnet50_fpn":
        theirs = fasterrcnn_resnet50_fpn(**offline, box_score_thresh=0.01)
        ours = FasterRCNN(torchvision_backbone(ResNet(50), fpn="maxpool"), 3, **SIZES, box_score_thresh=0.01)
    else:
        theirs = retinanet_resnet50_fpn_v2(**offline, score_thresh=0.01)
        ours = RetinaNet(
            torchvision_backbone(ResNet(50, out_features=C3_TO_C5), fpn="conv"),
            3,
            **SIZES,
            score_thresh=0.01,
            anchor_generator=theirs.anchor_generator,
            head=theirs.head,
        )
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    pictures = [torch.rand(3, 64, 96), torch.rand(3, 64, 80)]
    with torch.no_grad():
        expected, got = theirs.eval()(pictures), ours.eval()(pictures)
    assert len(expected) == 2 and all(len(found["boxes"]) > 5 for found in expected)
    for mine, other in zip(got, expected, strict=True):
        for part in ("boxes", "scores", "labels"):
            torch.testing.assert_close(mine[part], other[part], rtol=1e-3, atol=1e-2)


FAMILIES = {
    "resnet18": {"c2": 64, "c3": 128, "c4": 256, "c5": 512},
    "mobilenet_v2": {"c2": 24, "c3": 32, "c4": 96, "c5": 1280},
    "mobilenet_v3_small": {"c2": 16, "c3": 24, "c4": 48, "c5": 576},
    "densenet121": {"c2": 256, "c3": 512, "c4": 1024, "c5": 1024},
    "shufflenet_v2_x0_5": {"c2": 24, "c3": 48, "c4": 96, "c5": 1024},
    "regnet_y_400mf": {"c2": 48, "c3": 104, "c4": 208, "c5": 440},
    "convnext_tiny": {"c2": 96, "c3": 192, "c4": 384, "c5": 768},
    "swin_t": {"c2": 96, "c3": 192, "c4": 384, "c5": 768},
}


@pytest.mark.parametrize("model", FAMILIES)
def test_maps_of_torchvisions_networks(model: str) -> None:
    backbone = TorchvisionBackbone(model).eval()
    specs = {name: FeatureSpec(width, 2 ** int(name[1:])) for name, width in FAMILIES[model].items()}
    assert backbone.feature_specs == specs
    theirs = torchvision.models.get_model(model, weights=None).eval()
    theirs.load_state_dict(backbone.state_dict(), strict=False)
    expected: dict[str, Tensor] = {}
    for layer, found in backbone.taps.items():
        hook = partial(lambda name, _m, _i, out: expected.__setitem__(name, out.clone()), found.name)
        theirs.get_submodule(layer).register_forward_hook(hook)
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(pixels)
        theirs(pixels)
    assert list(maps) == list(specs)
    for name, (channels, stride) in specs.items():
        assert maps[name].shape == (2, channels, 64 // stride, 96 // stride)
        as_theirs = expected[name] if expected[name].shape[1] == channels else expected[name].permute(0, 3, 1, 2)
        torch.testing.assert_close(maps[name], as_theirs)


def test_maps_are_torchvisions_own_and_parameters_have_its_names() -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    randomise(theirs)
    backbone = TorchvisionBackbone("resnet18", out_features=["c4"]).eval()
    assert list(backbone.feature_specs) == ["c4"]
    wanted = {k: v for k, v in theirs.state_dict().items() if not k.startswith(("layer4", "fc"))}
    backbone.load_state_dict(wanted)  # strictly: what makes conv5_x is not there
    getter = torchvision.models._utils.IntermediateLayerGetter(theirs, {"layer3": "c4"})
    pixels = torch.randn(1, 3, 70, 90)
    with torch.no_grad():
        torch.testing.assert_close(backbone(pixels)["c4"], getter(pixels)["c4"])


def test_load_pretrained_loads_what_torchvision_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.resnet18(weights=None).state_dict()
    randomise_state = {name: torch.full_like(value, 0.5) for name, value in published.items()}
    asked: list[str] = []

    def download(url: str, *args: object, **kwargs: object) -> dict[str, Tensor]:
        asked.append(url)
        return randomise_state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    backbone = TorchvisionBackbone("resnet18", frozen_stages=2, frozen_batch=True)
    assert asked == []  # making one downloads nothing
    assert backbone.load_pretrained() == "torchvision resnet18 DEFAULT"
    assert len(asked) == 1 and "resnet18" in asked[0]
    assert all(bool((v == 0.5).all()) for v in backbone.state_dict().values() if v.is_floating_point())
    assert backbone.pretrained_pixels()["mean"] == pytest.approx([123.675, 116.28, 103.53])


def test_frozen_stages_and_batch_norms() -> None:
    backbone = TorchvisionBackbone("resnet18", frozen_stages=2).train()
    learning = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert learning == {"layer2", "layer3", "layer4"}
    assert not backbone.bn1.training and not backbone.layer1.training and backbone.layer2.training
    backbone = TorchvisionBackbone("resnet18", frozen_batch=True).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training or m.weight.requires_grad for m in norms)
    assert backbone.conv1.weight.requires_grad and backbone.layer1.training
    patches = TorchvisionBackbone("convnext_tiny", frozen_stages=2)
    assert {name.split(".")[1] for name, p in patches.named_parameters() if not p.requires_grad} == {"0", "1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet19"}, "torchvision has no 'resnet19'; nearest: resnet"),
        ({"model": "fasterrcnn_resnet50_fpn"}, "torchvision has no"),
        ({"model": "resnet18", "weights": "DEFAULT"}, "weights: not an option.*load_pretrained"),
        ({"model": "resnet18", "out_features": ["c6"]}, "out_features: got .*expected at least one of c1, c2"),
        ({"model": "vit_b_16"}, "the layers of vit_b_16 do not follow one another"),
        ({"model": "resnet18", "frozen_stages": 6}, "frozen_stages: got 6"),
        ({"model": "convnext_tiny", "frozen_stages": 1}, "frozen_stages: got 1, expected 0 .nothing. or 2"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchvisionBackbone(**options)


def test_from_yaml_it_trains_and_predicts(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        """
base: coco_r18.yaml
model:
  backbone:
    type: "detres.integrations.torchvision:TorchvisionBackbone"
    args: {model: mobilenet_v3_small, frozen_stages: 1}
  neck: {channels: 32}
"""
    )
    network = wiring.build_model(load_config(str(path)).config, num_classes=3)
    assert isinstance(network.backbone, BackboneWithFPN) and isinstance(network.backbone.fpn, FPN)
    batch = ImageBatch.from_images([torch.rand(3, 64, 96) * 255])
    truth = GroundTruth.from_lists([torch.tensor([[8.0, 8.0, 50.0, 60.0]])], [torch.tensor([1])])
    losses = network(batch, truth)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(network.eval().predict(batch)) == 1


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_examples("torchvision", tmp_path, monkeypatch)
    assert names["largest_difference"] < 0.01
