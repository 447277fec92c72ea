"""Every shipped configuration builds its network, takes a step on tiny images, and transforms them."""

import numpy as np
import pytest
import torch

from detres import wiring
from detres.backbones import BackboneWithFPN, FeatureSpec, resnet
from detres.classifier import Classifier
from detres.config import Config, load_config
from detres.config.backbones import CifarResNetSettings
from detres.config.files import shipped_configs
from detres.config.localizer import LocalizerSettings
from detres.config.model import ClassifierSettings, VGGHead
from detres.config.model import Conv5Head as Conv5Settings
from detres.detector import FasterRCNN, Localizer
from detres.detector.box_head import Conv5Head
from detres.engine.optimizer import build_optimizer
from detres.structures import GroundTruth, ImageBatch

SHIPPED = [
    path.relative_to(shipped_configs()).as_posix()
    for path in sorted(shipped_configs().rglob("*.yaml"))
    if path.parent.name != "base"
]
STEPPED: set[str] = set()
BOXES = [[4.0, 4, 40, 50], [30, 10, 60, 60]]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_builds(name: str) -> None:
    config = load_config(name).config
    with torch.device("meta"):  # shapes without numbers: ResNeXt-101 in a moment
        model = wiring.build_model(config, 7)
    assert any(parameter.requires_grad for parameter in model.parameters())
    if isinstance(config.model, ClassifierSettings):
        assert isinstance(model, Classifier) and model.fc.out_features == 7
        return
    if isinstance(config.model, LocalizerSettings):
        assert isinstance(model, Localizer) and model.num_classes == 7
        assert model.head.num_anchors == len(config.model.anchors.sizes) * len(config.model.anchors.aspect_ratios)
        return
    assert isinstance(model, FasterRCNN)
    assert model.roi_heads.box_predictor.cls_score.out_features == 8
    specs = model.backbone.feature_specs
    if config.model.neck is not None:
        assert isinstance(model.backbone, BackboneWithFPN)
        assert list(specs) == ["p2", "p3", "p4", "p5", "p6"][: len(config.model.anchors.sizes)]
        assert [spec.stride for spec in specs.values()] == [4, 8, 16, 32, 64][: len(specs)]
        assert {spec.channels for spec in specs.values()} == {config.model.neck.channels}
    elif isinstance(config.model.roi_heads.box_head, Conv5Settings):
        assert specs == {"c4": FeatureSpec(256 if getattr(config.model.backbone, "depth", 0) == 18 else 1024, 16)}
        assert isinstance(model.roi_heads.box_head, Conv5Head)
        assert not any(key.startswith("backbone.layer4") for key in model.state_dict())
    elif "vgg16" in name:
        assert specs == {"c5": FeatureSpec(512, 16)}
        assert model.roi_heads.box_head.fc6.weight.shape == (4096, 512 * 7 * 7)
    else:
        assert "dc5" in name and specs == {"c5": FeatureSpec(512 if "r18" in name else 2048, 16)}


def _shrunk(name: str) -> Config:
    """The configuration with the narrowest layers that say nothing about its form, and few proposals."""
    found = load_config(name).config.model
    smaller = ["model.weights=null", "model.backbone.weights=null"]
    if isinstance(found.backbone, CifarResNetSettings):
        smaller.append("model.backbone.depth=8")
    if isinstance(found, ClassifierSettings):
        return load_config(name, smaller + ["model.head.channels=16"] * isinstance(found.head, VGGHead)).config
    if isinstance(found, LocalizerSettings):
        return load_config(name, [*smaller, "model.channels=16"]).config
    top = {"pre": 50, "post": 10}
    smaller += [f"model.rpn.{k}_nms_top_n_{mode}={n}" for k, n in top.items() for mode in ("train", "test")]
    smaller += ["model.roi_heads.sampling.batch_size=8", "model.roi_heads.score_threshold=0.0", "model.rpn.channels=16"]
    if found.neck is not None:
        smaller.append("model.neck.channels=16")
    if not isinstance(found.roi_heads.box_head, Conv5Settings):
        smaller.append("model.roi_heads.box_head.channels=16")
    return load_config(name, smaller).config


def _images(config: Config) -> ImageBatch:
    side = 32 if isinstance(config.model.backbone, CifarResNetSettings) else 64
    images = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for _ in range(2)]
    return ImageBatch.from_images(images, size_divisibility=config.model.pixels.size_divisibility)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_step_on_tiny_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {depth: (block, (1, 1, 1, 1)) for depth, (block, _) in resnet._LAYOUTS.items()}
    monkeypatch.setattr(resnet, "_LAYOUTS", short)  # every kind of block once: all depths take their step in a moment
    config = _shrunk(name)
    key = str((config.model, config.train.optimizer))
    if key in STEPPED:  # the very same network and optimizer on another schedule or other data
        return
    model = wiring.build_model(config, 3).train()
    if config.model.pixels.per_pixel_mean is not None:
        model.pixels.set_mean_image(torch.full((3, 32, 32), 120.0))
    optimizer = build_optimizer(model, **config.train.optimizer.model_dump())
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad and p.numel() < 1000}
    targets = torch.tensor([2, 0])
    if not isinstance(config.model, ClassifierSettings):
        targets = GroundTruth.from_lists([torch.tensor(BOXES), torch.zeros(0, 4)], [targets, targets[:0]])
    losses = model(_images(config), targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    after = dict(model.named_parameters())
    assert all(p.isfinite().all() for p in after.values())
    assert any(not torch.equal(after[name], p) for name, p in before.items())
    STEPPED.add(key)


@pytest.mark.parametrize("training", [True, False])
def test_the_transforms_of_every_configuration(training: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    done = set()
    for name in SHIPPED:
        config = load_config(name).config
        steps = config.data.train_transforms if training else config.data.eval_transforms
        if str(steps) in done:
            continue
        done.add(str(steps))
        classifies = isinstance(config.model, ClassifierSettings)
        boxes = np.zeros((0, 4) if classifies else (2, 4), np.float32)
        if not classifies:
            boxes[:] = BOXES
        found = wiring.build_transforms(config, training)(image, boxes, np.arange(len(boxes)), boxes[:, 0] < 0, 1)
        assert found.image.dtype == np.uint8 and found.image.ndim == 3 and min(found.image.shape) > 0, name
        assert len(found.boxes_xyxy) + found.num_dropped == len(boxes)
