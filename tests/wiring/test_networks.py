"""The wiring diagram: the three forms of the detector train and predict, and what comes from outside is checked."""

from pathlib import Path

import pytest
import torch

import detres as package
from detres import wiring
from detres.config import config_to_dict, load_config
from detres.config.model import OutsideBackbone
from detres.detector import FasterRCNN
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


def test_a_detector_of_voc_begins_with_the_rows_of_cocos(tmp_path: Path) -> None:
    shape = ["model.backbone.depth=18", "model.neck.channels=16", "model.roi_heads.box_head.channels=8", *NO_WEIGHTS]
    coco = load_config("coco_r50_torchvision.yaml", shape).config
    names = ["airplane", "cat", "dining table", "zebra"]
    source = wiring.build_model(coco, len(names))
    state = {"kind": "detector", "config": config_to_dict(coco), "class_names": names, "model": source.state_dict()}
    save_checkpoint(tmp_path / "coco.pt", {"format": "detres", "version": 1, "ema": None, **state})
    config = load_config("voc_r50_from_coco.yaml", [*shape, f"model.weights={tmp_path / 'coco.pt'}"]).config
    model = wiring.build_model(config, 3)
    (report,) = wiring.load_initial_weights(model, config, ("aeroplane", "diningtable", "sofa"))
    assert report.kept_classes == ("aeroplane", "diningtable") and report.initial_classes == ("sofa",)
    rows, theirs = (m.roi_heads.box_predictor.cls_score.weight for m in (model, source))
    assert torch.equal(rows[:3], theirs[[0, 1, 3]])  # the background comes first here


@pytest.mark.parametrize("name", ["coco_r50.yaml", "coco_r50_c4.yaml"])
def test_further_stages_and_global_context_begin_from_a_plain_detector(name: str, tmp_path: Path) -> None:
    shape = ["model.backbone.depth=18", "model.roi_heads.class_agnostic=true", *SMALL]
    plain = wiring.build_model(load_config(name, shape).config, 2)
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    grown = ["model.roi_heads.cascade={}", "model.roi_heads.global_context=true", "seed=1"]
    config = load_config(name, [*shape, *grown, f"model.weights={tmp_path / 'plain.pt'}"]).config
    model = wiring.build_model(config, 2)
    (report,) = wiring.load_initial_weights(model, config, ("cat", "dog"))
    assert report.source.endswith("its second stage as the start of all 3, nothing from the global context at first")
    assert isinstance(model, FasterRCNN) and isinstance(model.roi_heads, CascadeRoIHeads)
    assert not report.keys("missing")
    own, context = model.roi_heads.box_predictor.cls_score.weight.chunk(2, dim=1)
    assert torch.equal(own, plain.roi_heads.box_predictor.cls_score.weight) and not context.any()
    for stage in model.roi_heads.stages:
        there, theirs = stage.box_head.state_dict(), plain.roi_heads.box_head.state_dict()
        assert all(torch.equal(there[key], theirs[key]) for key in theirs if not key.endswith("tracked"))


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
