"""The whole detector against mmdetection's own code, stage by stage, from its shipped configurations."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detres import wiring
from detres.config.model import FasterRCNNSettings
from detres.detector.box_coder import MAX_LOG_SCALE
from detres.structures import GroundTruth
from detres.weights.formats import mmdetection
from detres.weights.formats.shapes import merge
from tests.detector import mmdetection_twin as twin

SMALL_HEAD = {"roi_head": {"bbox_head": {"fc_out_channels": 64}}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "fpn": ("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", SMALL_HEAD),
    "c4": (
        "faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py",
        {
            "rpn_head": {"feat_channels": 64},
            "test_cfg": {"rpn": {"max_per_img": 10}},  # conv5_x on every region takes its time
            "train_cfg": {"rpn_proposal": {"max_per_img": 6}},
        },
    ),
    "dc5": (
        "faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py",
        {"rpn_head": {"feat_channels": 64}, **SMALL_HEAD},
    ),
}
SIZES = [(96, 120), (110, 90)]


def close(got: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Largest difference at most `relative` times the largest magnitude."""
    assert got.shape == expected.shape
    scale = float(expected.abs().max())
    assert scale > 0 and float((got - expected).abs().max()) <= relative * scale


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest) -> Any:
    twin.import_mmdet()
    config = twin.shipped_config(CASES[request.param][0], **CASES[request.param][1])
    theirs = twin.their_model(config)
    ours, implied = twin.our_model(theirs.state_dict(), twin.extra_of(config))
    assert implied.assumed == () and implied.class_names == twin.CLASSES
    return theirs, ours


@torch.no_grad()
def test_inference(pair: Any) -> None:
    theirs, ours = pair
    images = twin.pictures(SIZES)
    data, batch = twin.their_input(theirs, images), twin.our_input(ours, images)
    close(ours.pixels(batch), data["batch_inputs"])
    there = _seen(theirs.neck if theirs.with_neck else theirs.backbone, theirs.rpn_head, theirs.roi_head.bbox_head)
    here = _seen(ours.backbone, ours.rpn.head, ours.roi_heads.box_predictor, ours.rpn)
    expected = theirs.predict(**data, rescale=False)
    found = ours.predict(batch)

    for got, other in zip(here[0].values(), there[0], strict=True):
        close(got, other)
    for got, other in zip(sum(here[1], []), sum(there[1], []), strict=True):
        rows = other.permute(0, 2, 3, 1).reshape(len(other), -1, 4 if got.dim() == 3 else 1)
        close(got.reshape(rows.shape), rows.float())
    assert both_ends(torch.cat(here[1][1], 1))

    their_proposals = theirs.rpn_head.predict(there[0], data["batch_data_samples"], rescale=False)
    proposals = here[3][0].trimmed()
    for boxes, valid, other in zip(proposals.boxes_xyxy, proposals.valid, their_proposals, strict=True):
        assert len(other) >= 8 and (boxes[valid] - other.bboxes).abs().max() < 1e-3
    valid = proposals.valid.flatten()
    close(here[2][0][valid], there[2][0].float(), 1e-4)
    close(here[2][1][valid].flatten(1), there[2][1].float(), 1e-4)
    assert both_ends(here[2][1][valid] / 5)

    for mine, sample in zip(found, expected, strict=True):
        other = sample.pred_instances
        assert len(other) > 20 and torch.equal(mine.labels, other.labels)
        assert (mine.boxes_xyxy - other.bboxes).abs().max() < 1e-3
        assert (mine.scores - other.scores).abs().max() < 1e-4


def both_ends(deltas: Tensor) -> bool:
    """Whether some dw or dh lie above and some below what decoding clamps them to."""
    log_scales = deltas[..., 2:]
    return bool((log_scales > MAX_LOG_SCALE).any() and (log_scales < -MAX_LOG_SCALE).any())


def _seen(*modules: nn.Module) -> dict[int, Any]:
    """What passes through modules from now on, by their place."""
    seen: dict[int, Any] = {}
    for i, module in enumerate(modules):
        module.register_forward_hook(lambda _m, _i, out, i=i: seen.__setitem__(i, out))
    return seen


@torch.no_grad()
def test_training_losses(pair: Any) -> None:
    """With samples that take everything, objects far apart, equal paddings, and no anchor that touches a border."""
    theirs, ours = pair
    images = twin.pictures([(95, 120), (90, 127)])
    boxes = [
        torch.tensor([[20.0, 20.0, 52.0, 52.0], [62.0, 30.0, 94.0, 62.0]]),
        torch.tensor([[10.0, 30.0, 60.0, 70.0]]),
    ]
    labels = [torch.tensor([0, 3]), torch.tensor([4])]
    _train(theirs), _train(ours)
    expected = theirs.loss(**twin.their_input(theirs, images, boxes=boxes, labels=labels))
    got = ours(twin.our_input(ours, images), GroundTruth.from_lists(boxes, labels))
    theirs.eval(), ours.eval()
    names = {
        "loss_rpn_cls": "loss_rpn_objectness",
        "loss_rpn_bbox": "loss_rpn_box",
        "loss_cls": "loss_classifier",
        "loss_bbox": "loss_box",
    }
    for their_name, our_name in names.items():
        value = float(torch.as_tensor(expected[their_name]).sum())
        assert value > 0 and float(got[our_name]) == pytest.approx(value, rel=1e-4), our_name


def _train(model: nn.Module) -> None:
    """Training mode, but norms with their stored statistics, as both have them here."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def test_there_and_back_is_the_same(pair: Any) -> None:
    theirs, ours = pair
    state = theirs.state_dict()
    back = mmdetection.from_detres(mmdetection.to_detres(state))
    assert set(back) == set(state) and all(torch.equal(back[key], state[key]) for key in state)
    state = mmdetection.to_detres(theirs.state_dict())
    again = mmdetection.to_detres(mmdetection.from_detres(state))
    assert set(again) == set(state) and all(again[key] is state[key] for key in state)
    assert set(ours.state_dict()) <= set(state)  # frozen norms count no steps


EXPORTED: dict[str, dict[str, Any]] = {
    "fpn": {
        "backbone": {"depth": 18, "deep_stem": True, "avg_pool_shortcut": True, "norm": "batch", "norm_eps": 1e-3},
        "neck": {"channels": 32, "norm": "group"},
        "anchors": {
            "sizes": [[s, 1.5 * s] for s in (12.0, 24.0, 48.0, 96.0, 192.0)],
            "aspect_ratios": [0.5, 1.5],
        },
        "rpn": {"convs": 2, "channels": 48, "min_size": 2.0},
        "roi_heads": {
            "box_head": {"type": "conv_fc", "num_convs": 2, "conv_channels": 24, "channels": 40},
            "pool": {"sampling_ratio": 2, "aligned": False, "canonical_size": 100.0, "output_size": 5},
            "box_coder_weights": [5.0, 5.0, 4.0, 4.0],
            "class_agnostic": True,
        },
    },
    "c4": {
        "backbone": {"depth": 18, "out_features": ["c4"], "norm": "frozen_batch", "frozen_stages": 2},
        "anchors": {"sizes": [[20.0, 40.0, 100.0]]},
        "roi_heads": {"box_head": {"type": "conv5"}, "pool": {"type": "roi_pool", "output_size": 9}},
        "pixels": {"channel_order": "bgr", "std": [1.0, 1.0, 1.0], "size_divisibility": 16},
    },
    "dc5": {
        "backbone": {"depth": 50, "out_features": ["c5"], "dilated_c5": True, "norm": "group"},
        "anchors": {"sizes": [[20.0, 40.0, 100.0]], "order": "ratio_major"},
        "roi_heads": {"box_head": {"num_fcs": 3, "channels": 40}},
    },
}


@torch.no_grad()
@pytest.mark.parametrize("form", EXPORTED)
def test_mmdetection_built_by_the_instructions_computes_the_same(form: str) -> None:
    twin.import_mmdet()
    few = {
        "rpn": {
            "symmetric_clamp": True,
            "normalize_by": "sampled",
            "pre_nms_top_n_test": 200,
            "post_nms_top_n_test": 30,
        },
        "roi_heads": {"symmetric_clamp": True, "score_threshold": 0.02, "detections_per_image": 5000},
    }
    settings = FasterRCNNSettings.model_validate({"type": "faster_rcnn", **merge(few, EXPORTED[form])})
    ours = wiring.build_detector(settings, len(twin.CLASSES))
    lines = mmdetection.instructions(settings.model_dump(), ours.state_dict())
    assert not [line for line in lines if line.startswith("not the same")]

    theirs = twin.built_from(lines)
    ours.load_state_dict(mmdetection.to_detres(theirs.state_dict()))
    exported = mmdetection.from_detres(ours.state_dict())
    theirs.load_state_dict(exported, strict=True)
    assert set(exported) >= {key for key in theirs.state_dict() if "num_batches" not in key}
    ours.double().eval()
    images = twin.pictures(SIZES)
    found = ours.predict(twin.our_input(ours, images))
    expected = theirs.predict(**twin.their_input(theirs, images), rescale=False)
    for mine, sample in zip(found, expected, strict=True):
        other = sample.pred_instances
        assert len(other) > 10 and torch.equal(mine.labels, other.labels)
        assert (mine.boxes_xyxy - other.bboxes).abs().max() < 1e-3
        assert (mine.scores - other.scores).abs().max() < 1e-4
