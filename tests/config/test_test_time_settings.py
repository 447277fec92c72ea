"""The settings of test-time systems: on top of shipped and stored configurations, and what is refused."""

import pytest

from detres.config import config_from_dict, config_to_dict, load_config
from detres.config.errors import ConfigError


def test_off_by_default_and_on_in_one_line() -> None:
    plain = load_config("coco_r50.yaml").config
    assert plain.eval.test_time == {}
    for text in ("eval.box_refinement={}", "eval.box_refinement=true"):
        refinement = load_config("coco_r50.yaml", [text]).config.eval.box_refinement
        assert refinement is not None and refinement.model_dump() == {
            "rounds": 1, "nms_iou": 0.3, "voting_iou": 0.5,
        }  # fmt: skip
    assert load_config("coco_r50.yaml", ["eval.box_refinement=false"]).config == plain
    scales = load_config("voc_r50_c4.yaml", ["eval.multi_scale={}"]).config.eval.multi_scale
    assert scales is not None and scales.short is None and scales.region_size is None


def test_on_top_of_stored_configurations() -> None:
    stored = config_to_dict(load_config("coco_r50.yaml").config)
    for name in ("box_refinement", "multi_scale", "augment", "dense"):
        del stored["eval"][name]  # as those that were written before there were such settings
    config = config_from_dict(stored, "old.pt", ["eval.augment={short: [400, 600], merge: wbf}"])
    assert config.eval.augment is not None and config.eval.augment.flip and config.eval.augment.short == [400, 600]
    again = config_from_dict(config_to_dict(config), "new.pt", ["eval.box_refinement.rounds=2"])
    assert list(again.eval.test_time) == ["box_refinement", "augment"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.box_refinement.voting=0.4", "did you mean eval.box_refinement.voting_iou?"),
        ("eval.box_refinement=0.3", "expected settings (rounds, nms_iou, voting_iou)"),
        ("eval.multi_scale.short=[600]", "eval.multi_scale.short"),
        ("eval.multi_scale.short=[600, 600]", "expected each size once"),
        ("eval.augment={flip: false}", "there is nothing to merge"),
        ("eval.augment={short: [800], flip: false}", "there is nothing to merge"),
        (
            "eval.multi_scale={short: [600, 1000, 200], max: 500}",
            "max: got 500, expected at least 600",
        ),
        ("eval.augment.merge=wbp", "expected one of nms, soft_nms or wbf"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("coco_r50.yaml", [override])
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["box_refinement", "multi_scale", "augment"])
def test_classifiers_refuse_them(key: str) -> None:
    with pytest.raises(ConfigError, match=f"eval.{key}: got settings, expected null: it is for detectors"):
        load_config("imagenet_r50.yaml", [f"eval.{key}={{}}"])


def test_dense_testing_of_localizers() -> None:
    config = load_config("tiny_imagenet_loc.yaml", ["eval.dense={}"]).config
    assert config.eval.dense is not None and config.eval.dense.model_dump() == {
        "short": [224, 256, 384, 480, 640], "max": 2000, "flip": True, "voting_iou": 0.5,
    }  # fmt: skip
    assert (
        load_config("tiny_imagenet_loc.yaml", ["eval.dense={short: [64], flip: false}"]).config.eval.dense is not None
    )
    assert load_config("tiny_imagenet_loc.yaml").config.eval.test_time == {}


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("tiny_imagenet_loc", "eval.dense.short=[64, 64]", "eval.dense.short: got [64, 64], expected each size once"),
        ("tiny_imagenet_loc", "eval.dense.short=[]", "eval.dense.short"),
        ("tiny_imagenet_loc", "eval.dense.sizes=[64]", "eval.dense.sizes"),
        (
            "tiny_imagenet_loc",
            "eval.augment={}",
            "expected null: it is for detectors; several views of a localizer are eval.dense",
        ),
        ("coco_r50", "eval.dense={}", "it is for localizers; several views of a detector are eval.augment"),
        ("imagenet_r50", "eval.dense={}", "it is for localizers; several views of a classifier are eval.protocol"),
    ],
)
def test_dense_mistakes_are_named(name: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(f"{name}.yaml", [override])
    assert message in str(caught.value)
