"""The detector's forms, heads, losses and hard cases on small networks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detres.backbones import FPN, BackboneWithFPN, ResNet, conv5_stage
from detres.detector import FasterRCNN
from detres.detector.anchors import AnchorGenerator
from detres.detector.box_coder import BoxCoder
from detres.detector.box_head import BoxPredictor, Conv5Head, ConvFCHead, FCHead
from detres.detector.losses import BoxLoss
from detres.detector.roi_heads import RoIHeads
from detres.detector.rpn import RPN
from detres.layers.pixels import PixelNormalizer
from detres.layers.roi_pool import RoIPooler
from detres.structures import GroundTruth, ImageBatch


def make(form: str = "fpn", num_classes: int = 3, rpn: Any = None, **heads: Any) -> FasterRCNN:
    """A ResNet-18 detector with few proposals."""
    out_features = {"fpn": ["c2", "c3", "c4", "c5"], "c4": ["c4"], "dc5": ["c5"]}[form]
    backbone: Any = ResNet(18, out_features=out_features, dilated_c5=form == "dc5")
    sizes = [[32.0, 64.0]]
    if form == "fpn":
        backbone = BackboneWithFPN(backbone, FPN(backbone.feature_specs, 32))
        sizes = [[16.0], [32.0], [64.0], [128.0], [256.0]]
    specs = backbone.feature_specs
    pool_names = [name for name in specs if name != "p6"]
    channels = specs[pool_names[0]].channels
    pooler = RoIPooler([specs[name].stride for name in pool_names], output_size=14 if form == "c4" else 7)
    kind = heads.pop("head", "fc")
    head: Any = ConvFCHead(channels, 7, num_convs=2, conv_channels=16, channels=32) if kind == "conv_fc" else None
    head = head or FCHead(channels, 7, channels=32)
    if form == "c4":
        conv5 = conv5_stage(18)
        head = Conv5Head(conv5, conv5.out_channels)
    predictor = BoxPredictor(
        head.out_channels,
        num_classes,
        class_agnostic=heads.pop("class_agnostic", False),
        background=heads.pop("background", "last"),
    )
    top = {"pre_nms_top_n": (50, 50), "post_nms_top_n": (20, 20)}
    roi_heads = RoIHeads(pool_names, pooler, head, predictor, batch_size=32, score_threshold=0.0, **heads)
    return FasterRCNN(PixelNormalizer(), backbone, RPN(specs, AnchorGenerator(sizes), **top, **(rpn or {})), roi_heads)


def batch(*counts: int, side: int = 96) -> tuple[ImageBatch, GroundTruth]:
    """Random images, with so many objects each."""
    images = [torch.randint(0, 256, (3, side - 7 * i, side), dtype=torch.uint8) for i in range(len(counts))]
    corners = [torch.rand(n, 2) * (side // 2) for n in counts]
    boxes = [torch.cat([c, c + 12 + torch.rand(len(c), 2) * 30], dim=1) for c in corners]
    return ImageBatch.from_images(images), GroundTruth.from_lists(boxes, [torch.arange(n) % 3 for n in counts])


def finite_step(model: FasterRCNN, images: ImageBatch, targets: GroundTruth) -> dict[str, Tensor]:
    losses = model.train()(images, targets)
    assert set(losses) == {"loss_rpn_objectness", "loss_rpn_box", "loss_classifier", "loss_box"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    return losses


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("fpn", {}),
        ("fpn", {"head": "conv_fc", "background": "first"}),
        ("fpn", {"class_agnostic": True, "box_loss": "giou"}),
        ("fpn", {"box_loss": "ciou", "rpn": {"box_loss": "diou", "convs": 2}}),
        ("fpn", {"box_loss": "smooth_l1", "smooth_l1_beta": 0.5, "nms": "soft_linear"}),
        ("c4", {}),
        ("dc5", {"rpn": {"straddle_threshold": 0.0}}),
    ],
)
def test_every_form_trains_and_predicts(form: str, settings: dict[str, Any]) -> None:
    model = make(form, **settings)
    images, targets = batch(2, 0)
    losses = finite_step(model, images, targets)
    assert all(loss.item() > 0 for loss in losses.values())
    found = model.eval().predict(images)
    assert len(found) == 2
    for detections, (height, width) in zip(found, images.sizes_hw.tolist(), strict=True):
        assert len(detections) > 0 and (detections.scores[:-1] >= detections.scores[1:]).all()
        x1, y1, x2, y2 = detections.boxes_xyxy.unbind(1)
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()


def test_no_objects_in_the_whole_batch() -> None:
    images, targets = batch(0, 0)
    losses = finite_step(make(), images, targets)
    assert losses["loss_box"].item() == 0 and losses["loss_rpn_box"].item() == 0
    assert losses["loss_classifier"].item() > 0


def test_an_image_that_is_one_crowd() -> None:
    images, _ = batch(1)
    label = [torch.tensor([0])]
    targets = GroundTruth.from_lists([torch.tensor([[0.0, 0.0, 96.0, 96.0]])], label, [torch.tensor([True])])
    finite_step(make(), images, targets)


def test_one_class_and_thousands_of_objects() -> None:
    images, targets = batch(3000)
    targets.labels.zero_()
    losses = finite_step(make(num_classes=1), images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_sample_depends_on_the_image_not_on_its_batch() -> None:
    """The same two images in one batch and one by one: the same losses (batch norm apart)."""
    model = make().eval()
    images, targets = batch(3, 2, side=64)
    model.rpn.batch_size = 16
    with torch.no_grad():
        together = model(images, targets)
        apart = []
        for i in range(2):
            one = ImageBatch(
                *(getattr(images, n)[i : i + 1] for n in ("pixels", "sizes_hw", "original_sizes_hw", "sampling_seeds"))
            )
            apart.append(
                model(
                    one,
                    GroundTruth(*(getattr(targets, n)[i : i + 1] for n in ("boxes_xyxy", "labels", "valid", "ignore"))),
                )
            )
    for name in ("loss_rpn_objectness", "loss_rpn_box"):
        assert float(together[name]) == pytest.approx(sum(float(a[name]) for a in apart) / 2, rel=1e-4)


def test_detections_per_image_and_threshold() -> None:
    model = make(detections_per_image=3).eval()
    images, _ = batch(1)
    assert len(model.predict(images)[0]) == 3
    model.roi_heads.score_threshold = 0.999
    assert len(model.predict(images)[0]) == 0


def test_background_first_and_last_are_the_same_network() -> None:
    """Rolling the rows of the predictor turns one layout into the other; losses and detections stay."""
    last, first = make(background="last").eval(), make(background="first").eval()
    state = last.state_dict()
    for kind in ("weight", "bias"):
        score, box = (f"roi_heads.box_predictor.{layer}.{kind}" for layer in ("cls_score", "bbox_pred"))
        state[score] = state[score].roll(1, dims=0)
        state[box] = torch.cat([torch.randn_like(state[box][:4]), state[box]])
    first.load_state_dict(state)
    images, targets = batch(2, 1)
    with torch.no_grad():
        for name, value in last(images, targets).items():
            assert float(first(images, targets)[name]) == pytest.approx(float(value), rel=1e-5)
    for a, b in zip(last.predict(images), first.predict(images), strict=True):
        torch.testing.assert_close(a.boxes_xyxy, b.boxes_xyxy)
        assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("kind", ["l1", "smooth_l1", "giou", "diou", "ciou"])
def test_box_losses_vanish_at_the_target_and_have_gradients(kind: str) -> None:
    coder = BoxCoder((10, 10, 5, 5))
    loss = BoxLoss(coder, kind, beta=0.1)
    references = torch.tensor([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 30.0, 25.0], [0.0, 0.0, 0.0, 0.0]])
    targets = torch.tensor([[1.0, 2.0, 12.0, 19.0], [6.0, 3.0, 28.0, 29.0], [0.0, 0.0, 0.0, 0.0]])
    weight = torch.tensor([1.0, 1.0, 0.0])  # the last row is padding: nothing in it may matter
    exact = coder.encode(targets[:2], references[:2])
    deltas = torch.cat([exact, torch.full((1, 4), 3e8)])
    assert float(loss(deltas, references, targets, weight)) == pytest.approx(0, abs=1e-4)
    moved = (deltas + 0.3).requires_grad_()
    value = loss(moved, references, targets, weight)
    value.backward()
    assert float(value) > 0
    assert (moved.grad[:2].abs().sum(1) > 0).all() and (moved.grad[2] == 0).all()


def test_clear_errors() -> None:
    with pytest.raises(ValueError, match="giou"):
        BoxLoss(BoxCoder(), "iou")
    with pytest.raises(ValueError, match="same number of anchor sizes"):
        AnchorGenerator([[32.0], [64.0, 128.0]])
    with pytest.raises(ValueError, match="one list of sizes per level"):
        AnchorGenerator([[32.0], [64.0]])([(4, 4)] * 3, [4, 8, 16], (64, 64))
    with pytest.raises(ValueError, match="background"):
        BoxPredictor(8, 3, background="none")
    with pytest.raises(ValueError, match="soft_linear"):
        make(nms="fast")
    assert isinstance(make().roi_heads.box_head, nn.Module)
