"""From `eval` to the system around a detector: each setting arrives where it belongs."""

import pytest
import torch

from detres import wiring
from detres.config import Config, load_config
from detres.detector.test_time import DetectionSystem
from tests.detector.small import build

SOFT = "model.roi_heads.nms=soft_linear"
THRESHOLDS = ["model.roi_heads.nms_iou=0.6", "model.roi_heads.detections_per_image=7", SOFT]
IMAGE = torch.zeros(3, 30, 60, dtype=torch.uint8)


def system_of(*overrides: str) -> DetectionSystem:
    config = load_config("coco_r50.yaml", [*THRESHOLDS, *overrides]).config
    system = wiring.with_test_time(build("fpn"), config)
    assert isinstance(system, DetectionSystem)
    return system


def test_without_settings_the_model_stays_itself() -> None:
    model, config = build("fpn"), load_config("coco_r50.yaml").config
    assert isinstance(config, Config) and wiring.with_test_time(model, config) is model


def test_box_refinement_brings_its_own_nms_and_the_vote() -> None:
    system = system_of("eval.box_refinement={rounds: 2}")
    assert system.refinement_rounds == 2 and not system.pyramid and system.merging is None and len(system.views) == 1
    selection = system.selection
    assert (selection.nms_iou, selection.voting_iou) == (0.3, 0.5)
    assert (selection.nms, selection.detections_per_image) == ("soft_linear", 7)
    assert system_of("eval.box_refinement={nms_iou: 0.4, voting_iou: null}").selection.voting_iou is None
    without = system_of("eval.multi_scale=true").selection
    assert (without.nms_iou, without.voting_iou) == (0.6, None), "without refinement the heads' own"


def test_by_default_the_papers_pyramid_in_proportion() -> None:
    for name, sides, region_size in (
        ("paper/voc_r50_c4.yaml", [200, 400, 600, 800, 1000], 224.0),
        ("bccd.yaml", [96, 192, 288, 384, 480], 224 * 288 / 600),
    ):
        system = wiring.with_test_time(build("fpn"), load_config(name, ["eval.multi_scale={}"]).config)
        assert isinstance(system, DetectionSystem)
        assert [scale(torch.zeros(3, 30, 30, dtype=torch.uint8)).shape[1] for scale in system.pyramid] == sides
        assert system.region_size == pytest.approx(region_size)


def test_a_pyramid_at_the_sizes_of_multi_scale() -> None:
    system = system_of("eval.multi_scale={short: [20, 40, 60], max: 100, region_size: 50}")
    assert [tuple(scale(IMAGE).shape[1:]) for scale in system.pyramid] == [(20, 40), (40, 80), (50, 100)]
    assert system.region_size == 50 and system.refinement_rounds == 0


@pytest.mark.parametrize(
    ("merge", "iou"), [("nms", 0.6), ("soft_nms", 0.6), ("wbf", 0.55), ("wbf, iou: 0.7", 0.7), ("nms, iou: 0.2", 0.2)]
)
def test_views_and_their_merging(merge: str, iou: float) -> None:
    system = system_of(f"eval.augment={{short: [20, 40], max: 60, merge: {merge}}}")
    shapes = [(tuple(view.transform(IMAGE).shape[1:]), view.flip) for view in system.views]
    assert shapes == [((20, 40), False), ((20, 40), True), ((30, 60), False), ((30, 60), True)]
    assert system.merging is not None
    assert (system.merging.method, system.merging.iou) == (merge.partition(",")[0], iou)
    assert (system.merging.score_threshold, system.merging.detections_per_image) == (0.05, 7)
