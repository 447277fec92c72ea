"""The wiring diagram: every shipped configuration builds its network, and its three forms train and predict."""

from pathlib import Path

import pytest
import torch

import detres as package
from detres import wiring
from detres.backbones import BackboneWithFPN, FeatureSpec
from detres.classifier import Classifier
from detres.config import config_to_dict, load_config
from detres.config.files import shipped_configs
from detres.config.model import ClassifierSettings, OutsideBackbone
from detres.detector import FasterRCNN
from detres.detector.box_head import Conv5Head
from detres.detector.cascade import CascadeRoIHeads
from detres.detector.roi_heads import RoIHeads
from detres.engine.checkpoint import save_checkpoint
from detres.structures import Detections, GroundTruth, ImageBatch
from detres.wiring.outside import outside_class

NO_WEIGHTS = ["model.backbone.weights=null"]
SMALL = [
    *NO_WEIGHTS,
    "model.rpn.post_nms_top_n_train=20",
    "model.rpn.post_nms_top_n_test=10",
    "model.roi_heads.sampling={positive_iou: 0.5, negative_iou: 0.5, batch_size: 8, positive_fraction: 0.25}",
    "model.roi_heads.score_threshold=0.0",
]


SHIPPED = [
    path.relative_to(shipped_configs()).as_posix()
    for path in sorted(shipped_configs().rglob("*.yaml"))
    if path.parent.name != "base"
]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_builds(name: str) -> None:
    config = load_config(name, NO_WEIGHTS).config
    with torch.device("meta"):  # shapes without numbers: ResNeXt-101 in a moment
        model = wiring.build_model(config, 7)
    assert any(parameter.requires_grad for parameter in model.parameters())
    if isinstance(config.model, ClassifierSettings):
        assert isinstance(model, Classifier) and model.fc.out_features == 7
        return
    assert isinstance(model, FasterRCNN)
    assert model.roi_heads.box_predictor.cls_score.out_features == 8
    specs = model.backbone.feature_specs
    if config.model.neck is not None:
        assert isinstance(model.backbone, BackboneWithFPN)
        assert list(specs) == ["p2", "p3", "p4", "p5", "p6"][: len(config.model.anchors.sizes)]
        assert [spec.stride for spec in specs.values()] == [4, 8, 16, 32, 64][: len(specs)]
        assert {spec.channels for spec in specs.values()} == {config.model.neck.channels}
    elif name.endswith("_c4.yaml"):
        assert specs == {"c4": FeatureSpec(1024, 16)} and isinstance(model.roi_heads.box_head, Conv5Head)
        assert not any(key.startswith("backbone.layer4") for key in model.state_dict())
    else:
        assert name == "coco_r50_dc5.yaml" and specs == {"c5": FeatureSpec(2048, 16)}


@pytest.mark.parametrize("name", ["coco_r50.yaml", "coco_r50_c4.yaml", "coco_r50_dc5.yaml"])
def test_every_second_stage_is_one_line_on_any_configuration(name: str) -> None:
    def built(*overrides: str) -> RoIHeads:
        config = load_config(name, [*NO_WEIGHTS, *overrides]).config
        with torch.device("meta"):
            model = wiring.build_model(config, 7)
        assert isinstance(model, FasterRCNN) and model.num_classes == 7
        return model.roi_heads

    width = built().box_predictor.cls_score.in_features
    assert built("model.roi_heads.global_context=true").box_predictor.cls_score.in_features == 2 * width
    assert built("model.roi_heads.sampling.ohem=true").ohem
    cascade = built("model.roi_heads.cascade={}", "model.roi_heads.class_agnostic=true")
    assert isinstance(cascade, CascadeRoIHeads)
    assert [stage.box_predictor.bbox_pred.out_features for stage in cascade.stages] == [4, 4, 4]
    assert [stage.positive_iou for stage in cascade.stages] == [0.5, 0.6, 0.7]


@pytest.mark.parametrize("name", ["coco_r18.yaml", "coco_r50_c4.yaml", "coco_r50_dc5.yaml"])
def test_a_training_step_and_a_prediction(name: str) -> None:
    config = load_config(name, SMALL).config
    model = wiring.build_model(config, 3)
    # batch norms without statistics of real weights let activations explode; here the step counts, not the values
    shapes = [(64, 96), (72, 64)]
    images = ImageBatch.from_images(
        [torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for shape in shapes],
        [(128, 192), (72, 64)],
        config.model.pixels.size_divisibility,
    )
    targets = GroundTruth.from_lists(
        [torch.tensor([[4.0, 4, 40, 50], [30, 10, 60, 60]]), torch.zeros(0, 4)],
        [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)],
    )
    losses = model.train()(images, targets)
    assert sorted(losses) == ["loss_box", "loss_classifier", "loss_rpn_box", "loss_rpn_objectness"]
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    with torch.no_grad():
        found = model.eval().predict(images)
    assert all(isinstance(one, Detections) and one.labels.max() < 3 for one in found)
    for one, (height, width) in zip(found, shapes, strict=True):
        assert len(one) and (one.boxes_xyxy <= torch.tensor([width, height, width, height])).all()


def test_an_outside_class_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"model.backbone.type: cannot import 'nowhere:Net'.*package.module:Class"):
        outside_class("nowhere:Net", "model.backbone.type")


def test_a_checkpoint_cannot_have_code_run(tmp_path: Path) -> None:
    """Its configuration may name any importable thing as the backbone; loading must not call it."""
    config = config_to_dict(load_config("demo.yaml").config)
    mark = tmp_path / "was here"
    config["model"]["backbone"] = {"type": "os:mkdir", "args": {"path": str(mark)}, "weights": None}
    state = {"kind": "detector", "config": config, "class_names": ["a"], "model": {}, "ema": None}
    save_checkpoint(tmp_path / "evil.pt", {"format": "detres", "version": 1, **state})
    with pytest.raises(ValueError, match=r"evil\.pt: its configuration names os:mkdir.*trust"):
        package.load(tmp_path / "evil.pt", device="cpu")
    with pytest.raises(ValueError, match="os:mkdir' is a builtin_function_or_method, expected a class"):
        package.load(tmp_path / "evil.pt", device="cpu", trust_code=True)
    assert not mark.exists()


def test_an_outside_class_that_is_no_backbone() -> None:
    settings = OutsideBackbone(type="torch.nn:Linear", args={"in_features": 1, "out_features": 1})
    with pytest.raises(ValueError, match="torch.nn:Linear is no backbone"):
        wiring.build_backbone(settings)


def test_data_paths_start_at_detres_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETRES_DATASETS", raising=False)
    assert wiring.data_root() == Path("datasets")
    monkeypatch.setenv("DETRES_DATASETS", "/elsewhere")
    assert wiring.data_root() == Path("/elsewhere")
