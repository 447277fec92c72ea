"""Mistakes in configurations: each is refused with its place, what was found, what was expected, the nearest key."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from detres.config import Config, ConfigError, config_from_dict, config_to_dict, load_config
from detres.config.keys import all_keys

SMALLEST = """\
model:
  type: faster_rcnn
  neck: {}
data:
  train: {type: coco, annotations: a.json, images: a}
  val: {type: coco, annotations: a.json, images: a}
train:
  batch_size: 2
  steps: 10
  optimizer: {type: sgd, lr: 0.1}
  schedule: {type: constant}
"""
CASCADE = "model.roi_heads.cascade={}"


def mistakes(name: str | Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(name, overrides)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_an_empty_configuration_misses_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("{}")
    found = mistakes("c.yaml")
    assert [line.split(";")[0] for line in found] == [f"c.yaml:1: {key}: missing" for key in ("model", "data", "train")]
    assert found[0].endswith("expected settings with type: faster_rcnn, classifier or localizer")


def test_the_smallest_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(SMALLEST)
    config = load_config(tmp_path / "c.yaml").config
    assert [dataset.type for dataset in config.data.train] == ["coco"]  # one is read as a list of one


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # Unknown keys, with the nearest valid one
        ("trian.batch_size=3", "override: trian: unknown key, got {'batch_size': 3}; did you mean train?"),
        ("train.batch_sise=3", "train.batch_sise: unknown key, got 3; did you mean train.batch_size?"),
        ("train.lr=3", "train.lr: unknown key, got 3; did you mean train.optimizer.lr? train takes batch_size,"),
        ("model.backbone.widht_per_group=3", "did you mean model.backbone.width_per_group?"),
        ("data.train.imags=x", "data.train.imags: unknown key, got 'x'; did you mean data.train.images?"),
        ("data.train_transforms.0.shorter=3", "did you mean data.train_transforms.0.short?"),
        ("seeed=3", "seeed: unknown key, got 3; did you mean seed?"),
        ("zzz=3", "zzz: unknown key, got 3; the top level takes model, data, train, eval"),
        # Wrong types
        ("train.batch_size='8'", "train.batch_size: got '8', expected a whole number"),
        ("train.batch_size=8.5", "train.batch_size: got 8.5, expected a whole number"),
        ("train.batch_size=true", "train.batch_size: got true, expected a whole number"),
        ("train.compile=yes", "train.compile: got 'yes', expected true or false"),
        ("train.optimizer.lr=abc", "train.optimizer.lr: got 'abc', expected a number"),
        ("train.optimizer.lr=.nan", "train.optimizer.lr: got nan, expected a finite number"),
        ("output=", "output: got null, expected text"),
        ("model.neck=fpn", "model.neck: got 'fpn', expected settings (channels, norm, top)"),
        ("data.train_transforms=x", "data.train_transforms: got 'x', expected a list"),
        ("data.train_transforms.0.short=600", "data.train_transforms.0.short: got 600, expected a list"),
        (
            "data.val=null",
            "data.val: got null, expected settings with type: coco, voc, own, imagenet_loc, box_lists, image_folder, "
            "flat_images, cifar10 or module:Class",
        ),
        # Impossible values
        ("train.optimizer.lr=-1", "train.optimizer.lr: got -1, expected a number greater than 0"),
        ("model.backbone.depth=51", "model.backbone.depth: got 51, expected one of 18, 34, 50, 101 or 152"),
        ("model.backbone.norm=frozen", "got 'frozen', expected one of batch, frozen_batch, sync_batch, group or none"),
        ("model.backbone.norm=frozenbatch", "did you mean frozen_batch?"),
        ("train.ema.decay=2", "train.ema.decay: got 2, expected a number less than 1"),
        ("data.train=[]", "data.train: got []; list should have at least 1 item"),
        ("model.pixels.mean=[1,2]", "model.pixels.mean: got [1, 2]; list should have at least 3 items"),
        ("device=gpu", "device: got 'gpu', expected text that matches"),
        (
            "train.schedule.milestones=[80000,60000]",
            "train.schedule.milestones: got [80000.0, 60000.0], expected rising",
        ),
        ("train.schedule.milestones=[90000]", "expected all before the end of training (90000 steps)"),
        ("train.steps=70000", "train.schedule.milestones: got [60000.0, 80000.0], expected all before the end"),
        ("train.epochs=3", "train.steps: got both (90000 and 3.0) of steps and epochs, expected one"),
        ("train.steps=null", "train.steps: got neither of steps and epochs, expected one"),
        ("train.accumulate=3", "train.accumulate: got 3, expected a divisor of batch_size (16)"),
        ("train.optimizer.groups=[{match: '('}]", "train.optimizer.groups.0.match: got '(', expected a regular"),
        ("model.rpn.sampling={positive_iou: 0.3, negative_iou: 0.5, batch_size: 2, positive_fraction: 0.5}", "at most"),
        ("model.backbone.out_features=[c5,c4]", "model.backbone.out_features: got ['c5', 'c4'], expected at least one"),
        ("model.backbone.out_features=[]", "model.backbone.out_features: got [], expected at least one"),
        ("model.anchors.sizes=[[32]]", "model.anchors.sizes: got 1 lists, expected 5: one for each feature level"),
        ("model.neck=null", "model.backbone.out_features: got ['c2', 'c3', 'c4', 'c5'] without a neck"),
        (
            "model.roi_heads.box_head={type: conv5}",
            "model.roi_heads.box_head.type: got 'conv5', expected fc or conv_fc",
        ),
        ("data.train_transforms=[{type: large_scale_jitter, min_scale: 3}]", "0.min_scale: got 3.0, expected at most"),
        ("data.eval_transforms=[{type: random_resized_crop, size: 2, ratio: [2, 1]}]", "0.ratio: got [2.0, 1.0]"),
        ("eval.metric=classification", "eval.metric: got 'classification', expected coco or voc"),
        ("data.val={type: image_folder, root: x}", "data.val.type: got 'image_folder', expected coco, voc, own,"),
        ("data.train={type: own, images: x}", "data.train.annotations: got null, expected a COCO instances file or a"),
        ("data.train={type: own, annotations: x}", "data.train.images: got null, expected the folder of the images"),
        ("data.val={type: own, annotations: x}", "data.val.images: got null, expected the folder of the images"),
        ("data.test={type: own}", "data.test.annotations: got null, expected a COCO instances file or a folder of VOC"),
        # Unions: only the member that `type` chose speaks
        (
            "model.backbone.type=resnext",
            "model.backbone.type: got 'resnext', expected one of resnet, cifar_resnet, vgg or module:Class",
        ),
        ("model.backbone.type=5", "model.backbone.type: got 5, expected one of resnet, cifar_resnet, vgg"),
        ("train.optimizer.type=adam", "train.optimizer.type: got 'adam', expected one of sgd or adamw; did you mean"),
        ("train.optimizer={type: adamw, momentum: 0.9, lr: 1}", "train.optimizer.momentum: unknown key, got 0.9"),
        ("data.train_transforms.0={type: flip}", "data.train_transforms.0.type: got 'flip', expected one of"),
        ("data.train_transforms=[horizontal_flip]", "0: got 'horizontal_flip', expected settings with type:"),
        ("data.train_transforms=[{p: 0.5}]", "data.train_transforms.0.type: missing; expected one of resize_shortest"),
        ("data.train.type=my_module.Class", "data.train.type: got 'my_module.Class', expected one of coco, voc"),
    ],
)
def test_one_mistake(override: str, message: str) -> None:
    found = mistakes("coco_r50.yaml", override)
    assert len(found) == 1, found
    assert message in found[0]


def test_all_mistakes_at_once_each_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "base: coco_r50.yaml\nmodel:\n  backbone: {depth: 51}\n  nek: 1\ntrain:\n  optimizer:\n    lr: -1\n"
    Path("bad.yaml").write_text(text)
    found = mistakes("bad.yaml", "seed=-1")
    assert [line.split(": ")[:2] for line in found] == [
        ["bad.yaml:3", "model.backbone.depth"],
        ["bad.yaml:4", "model.nek"],
        ["bad.yaml:7", "train.optimizer.lr"],
        ["override", "seed"],
    ]
    with pytest.raises(ConfigError, match="4 mistakes in the configuration:\n  bad.yaml:3: model.backbone.depth: got"):
        load_config("bad.yaml", ["seed=-1"])


def test_a_mistake_in_a_base_names_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SMALLEST.replace("0.1", "-0.1"))
    (tmp_path / "c.yaml").write_text("base: base.yaml\n")
    assert mistakes(tmp_path / "c.yaml")[0].startswith(f"{tmp_path / 'base.yaml'}:10: train.optimizer.lr")


def test_classes_of_the_user_are_admitted() -> None:
    backbone = "model.backbone={type: 'my_pkg.nets:Net', args: {width: 3, deep: {a: [1]}}}"
    config = load_config("coco_r50", [backbone, "data.val={type: 'm:Data', args: {}}"]).config
    assert config.model.backbone.args == {"width": 3, "deep": {"a": [1]}}


def test_a_backbone_without_a_type_is_a_resnet(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(SMALLEST.replace("  neck: {}", "  backbone: {depth: 18}\n  neck: {}"))
    assert load_config(tmp_path / "c.yaml").config.model.backbone.depth == 18


def test_dictionaries_and_back() -> None:
    config = load_config("voc_r50").config
    stored = config_to_dict(config)
    assert config_from_dict(stored) == config
    stored["train"]["batch_size"] = 0
    with pytest.raises(ConfigError, match=r"last.pt: train.batch_size: got 0, expected a number greater than 0"):
        config_from_dict(stored, "last.pt")
    with pytest.raises(ConfigError, match="missing"):
        config_from_dict({})


def test_settings_cannot_be_changed_afterwards() -> None:
    config = load_config("demo").config
    with pytest.raises(ValidationError):
        config.seed = 3
    assert isinstance(config, Config)


def test_the_keys_of_the_schema() -> None:
    keys = all_keys()
    assert {"train.optimizer.lr", "data.train_transforms.*.short", "model.roi_heads.box_head.num_convs"} <= set(keys)


def test_best_metric_follows_the_evaluation(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(SMALLEST)
    classify = [f"data.{split}={{type: image_folder, root: a}}" for split in ("train", "val")]
    classify += ["model={type: classifier}", "eval.metric=classification"]
    for overrides, expected in (
        ([], "AP"),
        (["eval.metric=voc"], "AP50"),
        (["eval.metric=voc", "eval.voc_iou_thresholds=[0.7, 0.75]"], "AP"),
        (classify, "top1"),
        (["train.best_metric=AP75"], "AP75"),
        (["train.best_metric=AR7", "eval.max_detections=[1, 7, 50]"], "AR7"),
        (["train.best_metric=AP70_11point", "eval.metric=voc", "eval.voc_iou_thresholds=[0.7]"], "AP70_11point"),
        (["train.best_metric=val_loss_box", "train.val_loss=true"], "val_loss_box"),
        ([CASCADE, "train.best_metric=val_loss_box_3", "train.val_loss=true"], "val_loss_box_3"),
    ):
        assert load_config(tmp_path / "c.yaml", overrides).config.best_metric == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.best_metric=AP5"], "train.best_metric: got 'AP5', expected one of AP, AP50, AP75,"),
        (["train.best_metric=AP75", "eval.metric=voc"], "expected one of AP, AP_11point, AP50, AP50_11point"),
        (["train.best_metric=val_loss"], "set train.val_loss to true to use it"),
        (["train.best_metric=val_loss_cls", "train.val_loss=true"], "val_loss_rpn_objectness"),
        ([CASCADE, "train.best_metric=val_loss_box", "train.val_loss=true"], "val_loss_classifier_1, val_loss_box_1"),
    ],
)
def test_an_unknown_best_metric_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    (tmp_path / "c.yaml").write_text(SMALLEST)
    (found,) = mistakes(tmp_path / "c.yaml", *overrides)
    assert message in found and found.startswith("override: train.best_metric: got ")


def test_every_stage_of_a_cascade_has_its_settings(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(SMALLEST)
    cascade = load_config(tmp_path / "c.yaml", [CASCADE]).config.model.roi_heads.cascade
    assert load_config(tmp_path / "c.yaml", ["model.roi_heads.cascade=true"]).config.model.roi_heads.cascade == cascade
    assert cascade.positive_ious == [0.5, 0.6, 0.7] and cascade.loss_weights == [1.0, 0.5, 0.25]
    assert cascade.box_coder_weights == [[10, 10, 5, 5], [20, 20, 10, 10], [30, 30, 15, 15]]
    assert mistakes(tmp_path / "c.yaml", "model.roi_heads.cascade.positive_ious=[0.5, 0.7]") == [
        f"override: model.roi_heads.cascade.{key}: got 3 entries, expected 2: one for each stage, as in positive_ious"
        for key in ("box_coder_weights", "loss_weights")
    ]
    (found,) = mistakes(tmp_path / "c.yaml", "model.roi_heads.cascade.positive_ious=[0.7, 0.6, 0.5]")
    assert found.endswith("got [0.7, 0.6, 0.5], expected rising ones: each stage is stricter")
    (found,) = mistakes(tmp_path / "c.yaml", "model.roi_heads.cascade.loss_weights=[0, 0, 0]")
    assert found.endswith("expected one above 0: nothing would be learned")
    (found,) = mistakes(tmp_path / "c.yaml", "model.roi_heads.cascade.positive_ious=[0.5]")
    assert "positive_ious" in found


def test_every_level_has_equally_many_anchor_sizes(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(SMALLEST)
    (found,) = mistakes(tmp_path / "c.yaml", "model.anchors.sizes=[[8, 16], [32], [64], [128], [256]]")
    assert found.startswith("override: model.anchors.sizes: got [[8.0, 16.0], [32.0]") and "equally many sizes" in found
    (found,) = mistakes(tmp_path / "c.yaml", "model.anchors.sizes=[[], [32], [64], [128], [256]]")
    assert "model.anchors.sizes.0: got []" in found


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.backbone.depth=18", "model.backbone.groups=32"], "model.backbone.groups: got 32, expected 1"),
        (["model.backbone.depth=34", "model.backbone.stride_in_1x1=true"], "stride_in_1x1: got true, expected false"),
        (["model.backbone.zero_init_last_norm=true"], "zero_init_last_norm: got true, expected false"),
        (["model.backbone.dilated_c5=true"], "model.backbone.dilated_c5: got true with a neck"),
        (
            ["model.backbone.out_features=[c2, c4]"],
            r"^override: model.backbone.out_features: got \['c2', 'c4'\], expected neighbours",
        ),
        (["train.optimizer.nesterov=true", "train.optimizer.momentum=0"], "train.optimizer.nesterov: got true"),
        (["train.optimizer={type: adamw, lr: 0.1, betas: [0.9, 1.0]}"], "train.optimizer.betas.1: got 1"),
        (["model.pixels.mean=[.nan, 0, 0]"], "model.pixels.mean.0: got nan"),
        (["data.min_box_size=.inf"], "data.min_box_size: got inf"),
        (["model.rpn.straddle_threshold=.nan"], "model.rpn.straddle_threshold: got nan"),
        (["data.val.image_ids=[]"], "data.val.image_ids: got"),
    ],
)
def test_values_that_cannot_go_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("coco_r50.yaml", overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.roi_heads.box_head.norm=group",
            "type conv_fc, model.roi_heads.box_head of type fc takes type, num_fcs",
        ),
        ("data.train.split=x", "type voc, imagenet_loc or cifar10, data.train of type coco takes type, annotations,"),
        ("model.label_smoothing=0.1", "type classifier, model of type faster_rcnn takes type, backbone,"),
    ],
)
def test_a_key_of_another_type_names_that_type(override: str, message: str) -> None:
    (found,) = mistakes("coco_r50.yaml", override)
    assert f"; it belongs to {message}" in found and "did you mean" not in found
    (found,) = mistakes("coco_r50.yaml", "model.neck.anchors=1")
    assert "did you mean model.anchors?" in found, "what the group above takes is no other type"
