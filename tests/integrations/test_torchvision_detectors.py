"""A detres Faster R-CNN as torchvision's own: the same detections through torchvision's forward pass."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from detres import wiring
from detres.api import Detector
from detres.config import load_config
from detres.data.transforms import DetectionTransforms
from detres.detector import FasterRCNN
from detres.integrations.torchvision import to_torchvision
from detres.jobs.benchmark.twins import randomise
from detres.structures import Detections, ImageBatch

NUM_CLASSES = 4
SIZES = {"min_size": 96, "max_size": 160}
FEW = [
    "model.backbone.weights=null",
    "model.rpn.pre_nms_top_n_test=200",
    "model.rpn.post_nms_top_n_test=60",
    "model.roi_heads.score_threshold=0.01",
    "model.roi_heads.detections_per_image=10000",  # a cut among scores equal up to rounding would be a coin toss
]
SLIM = "model.roi_heads.box_head.channels=64"
SLIM_PYRAMID = [SLIM, "model.neck.channels=32"]
CONFIGS: dict[str, tuple[str, list[str]]] = {
    "R18-FPN": ("coco_r18.yaml", SLIM_PYRAMID),
    "torchvision": ("coco_r50_torchvision.yaml", ["model.backbone.depth=18", *SLIM_PYRAMID]),
    "torchvision v2": (
        "coco_r50_torchvision_v2.yaml",
        ["model.backbone.depth=18", "model.roi_heads.box_head.conv_channels=32", *SLIM_PYRAMID],
    ),
    "C4": ("coco_r50_c4.yaml", ["model.roi_heads.pool.output_size=4"]),
    "DC5": ("coco_r50_dc5.yaml", ["model.backbone.depth=18", SLIM, "model.roi_heads.pool.type=roi_pool"]),
    "BGR": (
        "coco_r18.yaml",
        [
            "model.pixels={mean: [103.53, 116.28, 123.675], std: [1, 1, 1], channel_order: bgr}",
            "model.backbone.deep_stem=true",
            "model.anchors.aspect_ratios=[0.4, 1.0]",
            "model.anchors.order=ratio_major",
            "model.anchors.rounded=true",
            "model.rpn.channels=48",
            "model.rpn.score_threshold=0.7",
            "model.roi_heads.box_head.num_fcs=1",
            "model.roi_heads.pool={aligned: false, canonical_size: 64, canonical_level: 3}",
            "model.roi_heads.box_coder_weights=[5, 5, 2.5, 2.5]",
            *SLIM_PYRAMID,
        ],
    ),
}


def detector(name: str, *more: str) -> FasterRCNN:
    """Ours, of random weights that find something in the two images."""
    config, overrides = CONFIGS[name]
    settings = load_config(config, [*FEW, *overrides, "model.roi_heads.min_size=0.01", *more]).config.model
    network = wiring.build_detector(settings, NUM_CLASSES).eval()
    randomise(network)
    predictor = network.roi_heads.box_predictor
    with torch.no_grad():
        for key, tensor in network.backbone.state_dict().items():
            if key.endswith("bn2.weight") and settings.backbone.depth == 18:
                tensor.mul_(0.25)  # as `randomise` does with bn3: the last of a residual branch
            elif key.endswith("conv1.0.weight") and settings.pixels.std[0] == 1:
                tensor.mul_(1 / 58)
        if predictor.background == "last":  # `randomise` takes it to be the first
            predictor.cls_score.bias.copy_(predictor.cls_score.bias.roll(-1))
        if name == "C4":  # small features: no class would stand out against the background
            predictor.cls_score.bias.zero_()
    return network


def images() -> tuple[list[Tensor], ImageBatch]:
    """Two smooth pictures of unequal size whose short side is min_size, as torchvision takes them and as we do."""
    generator = torch.Generator().manual_seed(3)
    pictures = []
    for size in ((96, 150), (130, 96)):
        coarse = torch.rand(1, 3, size[0] // 8, size[1] // 8, generator=generator)
        pictures.append(torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[0].clamp(0, 1))
    return pictures, ImageBatch.from_images([p * 255 for p in pictures])


def agree(found: Detections, theirs: dict[str, Tensor]) -> None:
    """Each of ours has its own among theirs: neighbours whose scores differ by rounding may change places."""
    assert len(found) == len(theirs["boxes"])
    distance = torch.cdist(found.boxes_xyxy.double(), theirs["boxes"].double(), p=torch.inf)
    distance += 1e6 * (found.labels[:, None] + 1 != theirs["labels"])
    distance += (found.scores[:, None] - theirs["scores"]).abs() * 100  # 1e-4 of score counts as 1e-2 pixels
    rows = list(range(len(found)))
    for i in range(len(found)):
        row = min(rows, key=lambda j: float(distance[i, j]))
        rows.remove(row)
        assert float((found.boxes_xyxy[i] - theirs["boxes"][row]).abs().max()) < 1e-2
        assert float((found.scores[i] - theirs["scores"][row]).abs()) < 1e-4
        assert int(found.labels[i]) + 1 == int(theirs["labels"][row])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_detections(name: str) -> None:
    ours = detector(name)
    theirs = to_torchvision(ours, **SIZES)
    assert type(theirs) is TorchvisionFasterRCNN and not theirs.training
    pictures, batch = images()
    if CONFIGS[name][0] in ("coco_r50_c4.yaml", "coco_r50_dc5.yaml"):
        assert theirs.transform.size_divisible == 1
        batch = ImageBatch.from_images([p * 255 for p in pictures], size_divisibility=0)
    with torch.no_grad():
        expected = ours.predict(batch)
        got = theirs(pictures)
    for found, other in zip(expected, got, strict=True):
        assert len(found) > 15 and found.labels.unique().numel() > 1
        agree(found, other)


@pytest.mark.parametrize("version", ["torchvision", "torchvision v2"])
def test_its_weights_load_into_torchvisions_own_detector(version: str) -> None:
    make = {"torchvision": fasterrcnn_resnet50_fpn, "torchvision v2": fasterrcnn_resnet50_fpn_v2}[version]
    config, _ = CONFIGS[version]
    ours = wiring.build_detector(load_config(config, [*FEW, "model.backbone.norm_eps=1e-5"]).config.model, NUM_CLASSES)
    randomise(ours)
    converted = to_torchvision(ours.eval(), **SIZES)
    assert type(converted.rpn.anchor_generator) is AnchorGenerator  # torchvision's own parts where they agree
    assert type(converted.roi_heads.box_roi_pool) is MultiScaleRoIAlign
    settings = {"rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 60, "box_score_thresh": 0.01}
    more = {"num_classes": NUM_CLASSES + 1, "box_detections_per_img": 10000, **SIZES}
    theirs = make(weights=None, weights_backbone=None, **settings, **more).eval()
    theirs.load_state_dict(converted.state_dict())
    pictures, batch = images()
    with torch.no_grad():
        expected, got = theirs(pictures), ours.predict(batch)
    for found, other in zip(got, expected, strict=True):
        assert len(found) > 5
        agree(found, other)


def test_very_small_images_are_pooled_at_the_right_stride() -> None:
    """torchvision by itself takes a map of 2 x 2 cells for one of stride 16 when the image is 33 pixels wide."""
    ours = detector("torchvision")
    theirs = to_torchvision(ours, min_size=33, max_size=33)
    picture = images()[0][0][:, :33, :33]
    with torch.no_grad():
        expected = ours.predict(ImageBatch.from_images([picture * 255]))
        got = theirs([picture])
    assert len(expected[0]) > 5
    agree(expected[0], got[0])


def test_a_detector_with_names_and_transforms_will_do_and_is_left_alone() -> None:
    network = detector("BGR")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    theirs = to_torchvision(Detector(network, ["a", "b", "c", "d"], DetectionTransforms([]), device="cpu"), **SIZES)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.pixels.per_pixel_mean=32", "model.pixels.per_pixel_mean: .* expected a mean for each channel"),
        ("model.rpn.symmetric_clamp=true", "model.rpn.symmetric_clamp"),
        ("model.roi_heads.symmetric_clamp=true", "model.roi_heads.symmetric_clamp"),
        ("model.roi_heads.cascade={}", "model.roi_heads.cascade: .*expected null"),
        ("model.roi_heads.global_context=true", "model.roi_heads.global_context: .*expected false"),
        ("model.roi_heads.class_agnostic=true", "model.roi_heads.class_agnostic"),
        ("model.roi_heads.nms=soft_linear", "model.roi_heads.nms: .*expected hard"),
        ("model.roi_heads.min_size=2", "model.roi_heads.min_size: .*expected 0.01 or less"),
    ],
)
def test_what_torchvision_lacks_is_refused(setting: str, message: str) -> None:
    config, overrides = CONFIGS["R18-FPN"]
    settings = load_config(config, [*FEW, *overrides, setting]).config.model
    with pytest.raises(ValueError, match=message):
        to_torchvision(wiring.build_detector(settings, NUM_CLASSES))


def test_other_networks_are_refused() -> None:
    other: Any = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="got a Linear, expected a detres FasterRCNN or Detector"):
        to_torchvision(other)
