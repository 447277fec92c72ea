"""Detectors and localizers that were optimised for inference find what they found before."""

import copy
from collections.abc import Sequence

import pytest
import torch

from detres import wiring
from detres.config import load_config
from detres.detector import FasterRCNN
from detres.detector.box_head import BoxPredictor
from detres.detector.test_time import DetectionSystem, Merging, Selection, View
from detres.jobs.benchmark.twins import randomise
from detres.structures import Detections, GroundTruth, ImageBatch
from detres.structures.boxes import pairwise_iou
from tests.detector.small import CONV_FC, build
from tests.detector.test_localizer import make_localizer

GROUP = "model.backbone={type: resnet, depth: 18, norm: group, frozen_stages: 0, weights: null}"
FROZEN = "model.backbone={type: resnet, depth: 50, norm: frozen_batch, weights: null}"
RESNEXT = "model.backbone={type: resnet, depth: 50, groups: 32, width_per_group: 4, weights: null}"
VGG = "model.backbone={type: vgg, depth: 11, norm: batch, weights: null}"
MODELS = {
    "R18-FPN": ("fpn", ()),
    "R18-C4": ("c4", ()),
    "R18-DC5": ("dc5", ()),
    "R50-FPN, frozen norms": ("fpn", (FROZEN,)),
    "group norms": ("fpn", (GROUP, "model.neck.norm=group")),
    "ResNeXt-C4": ("c4", (RESNEXT,)),
    "VGG-FPN": ("fpn", (VGG,)),
    "head of convolutions, norms everywhere": ("fpn", (CONV_FC, "model.neck.norm=batch", "model.rpn.convs=2")),
    "cascade": ("fpn", ("model.roi_heads.cascade={}",)),
    "global context": ("c4", ("model.roi_heads.global_context=true",)),
}


def small(form: str, overrides: Sequence[str]) -> FasterRCNN:
    """A detector with random weights and norms that do something."""
    parts = {"fpn": "[c2, c3, c4, c5]", "c4": "[c4]", "dc5": "[c5]"}[form]
    return tame(build(form, *overrides, f"model.backbone.out_features={parts}"))


@torch.no_grad()
def tame(model: FasterRCNN, seed: int = 7) -> FasterRCNN:
    """Random weights, with logits and deltas of ordinary sizes: boxes that are neither points nor everything."""
    randomise(model.eval(), seed)
    images = images_of((96, 96))
    predictors = [module for module in model.modules() if isinstance(module, BoxPredictor)]
    for parent, first in [(model.rpn.head, "cls_logits"), *((each, "cls_score") for each in predictors)]:
        for name, spread in ((first, 2.0), ("bbox_pred", 0.5)):
            layer, sizes = parent.get_submodule(name), []
            handle = layer.register_forward_hook(
                lambda _layer, _inputs, output, sizes=sizes: sizes.append(output.std())
            )
            model.predict(images)
            handle.remove()
            layer.weight.mul_(spread / sizes[0])
            layer.bias.zero_()
    return model


def images_of(*sizes_hw: tuple[int, int]) -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.from_images(
        [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes_hw]
    )


def agreement(found: Sequence[Detections], expected: Sequence[Detections], iou: float = 0.99) -> float:
    """The share of expected detections of which one of the same label is found, at more than that IoU."""
    hits = []
    for ours, theirs in zip(found, expected, strict=True):
        same = (pairwise_iou(theirs.boxes_xyxy, ours.boxes_xyxy) > iou) & (theirs.labels[:, None] == ours.labels[None])
        hits.append(same.any(dim=1))
    return float(torch.cat(hits).float().mean())


UNEQUAL = ((96, 128), (90, 70))


@pytest.mark.parametrize("name", MODELS)
def test_the_same_detections(name: str) -> None:
    model = small(*MODELS[name])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    optimized = copy.deepcopy(model).optimize_for_inference()
    for sizes in (UNEQUAL, ((64, 64),)):
        images = images_of(*sizes)
        plain, ours = model.predict(images), optimized.predict(images)
        assert [len(d) for d in ours] == [len(d) for d in plain] and all(len(d) >= 5 for d in plain)
        assert agreement(ours, plain) >= 0.99
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-4)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_logits_and_deltas_of_the_rpn() -> None:
    model = small("fpn", ())
    optimized = copy.deepcopy(model).optimize_for_inference()
    images = images_of(*UNEQUAL)
    with torch.no_grad():
        plain, ours = (each.rpn.head(list(each.features(images).values())) for each in (model, optimized))
    for one, other in zip(ours[0] + ours[1], plain[0] + plain[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("version", [1, 2])
def test_the_forms_of_torchvision(version: int) -> None:
    name = {1: "coco_r50_torchvision.yaml", 2: "coco_r50_torchvision_v2.yaml"}[version]
    settings = load_config(name, ["model.rpn.post_nms_top_n_test=100"]).config.model
    model = tame(wiring.build_detector(settings, 90))
    images = images_of((128, 160))
    plain = model.predict(images)
    ours = model.optimize_for_inference().predict(images)
    assert len(plain[0]) > 20 and agreement(ours, plain) >= 0.99
    left = [m for m in model.modules() if "BatchNorm" in type(m).__name__]
    assert not left


def test_options_one_by_one() -> None:
    model = small("fpn", ())
    images = images_of(*UNEQUAL)
    plain = model.predict(images)
    for options in ({"fold_norms": False}, {"channels_last": False}, {"fold_norms": False, "channels_last": False}):
        ours = copy.deepcopy(model).optimize_for_inference(**options)
        assert agreement(ours.predict(images), plain) >= 0.99
        weight = ours.backbone.body.layer1[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == options.get("channels_last", True)
    with pytest.raises(ValueError, match="float32, bfloat16, float16; got 'bf16'"):
        model.optimize_for_inference(precision="bf16")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["R18-FPN", "R18-C4", "group norms", "cascade", "global context", "VGG-FPN"])
def test_sixteen_bits(name: str, precision: str) -> None:
    model = small(*MODELS[name])
    images = images_of(*UNEQUAL)
    plain = model.predict(images)
    for fold in (True, False):
        ours = copy.deepcopy(model).optimize_for_inference(precision=precision, fold_norms=fold)
        found = ours.predict(images)
        assert ours.backbone(ours.pixels(images).to(getattr(torch, precision)))
        for one, other in zip(found, plain, strict=True):
            assert one.boxes_xyxy.dtype == one.scores.dtype == torch.float32
            assert torch.isfinite(one.boxes_xyxy).all() and torch.isfinite(one.scores).all()
            assert abs(len(one) - len(other)) <= 5
        assert agreement(found, plain, iou=0.7) > 0.6


def test_boxes_of_large_images_are_not_rounded_to_sixteen_bits() -> None:
    """In bfloat16 1001 would be 1000: regions must be pooled where they are."""
    model = small("fpn", ()).optimize_for_inference(precision="bfloat16")
    pooler, maps = model.roi_heads.pooler, [torch.rand(1, 4, 256 // 2**i, 256 // 2**i) for i in range(4)]
    boxes = torch.tensor([[[1.0, 3.0, 1001.0, 999.0], [517.0, 3.0, 531.0, 15.0]]])
    torch.testing.assert_close(
        pooler([m.bfloat16() for m in maps], boxes).float(), pooler(maps, boxes), rtol=0, atol=1e-2
    )


def test_training_is_refused() -> None:
    model = small("fpn", ()).optimize_for_inference()
    images = images_of((64, 64))
    targets = GroundTruth.from_lists([torch.tensor([[4.0, 4.0, 40.0, 40.0]])], [torch.tensor([1])])
    with pytest.raises(RuntimeError, match=r"optimize_for_inference.*Load the checkpoint again"):
        model.train()
    with pytest.raises(RuntimeError, match="cannot be trained"):
        model(images, targets)
    assert not model.eval().training
    with torch.no_grad():
        assert torch.isfinite(torch.stack(list(model(images, targets).values()))).all()  # a validation loss


def test_twice_is_as_once() -> None:
    model = small("fpn", ()).optimize_for_inference()
    images = images_of((64, 64))
    once = model.predict(images)
    assert agreement(model.optimize_for_inference().predict(images), once) == 1


def test_systems_around_optimized_detectors() -> None:
    models = [small("fpn", ()), small("c4", ())]
    optimized = [copy.deepcopy(model).optimize_for_inference() for model in models]
    views = [View(lambda image: image), View(lambda image: image, flip=True)]
    selection = Selection(0.05, "hard", 0.3, 0.5, 100, 0.0, voting_iou=0.5)
    options = {"merging": Merging("nms", 0.5, 0.05, 100), "refinement_rounds": 1}
    pyramid = {"pyramid": [lambda image: image, lambda image: image[:, ::2, ::2]], "region_size": 64.0}
    images = images_of(*UNEQUAL)
    for more in ({}, pyramid):
        plain, ours = (
            DetectionSystem(each, views, selection, **options, **more).eval().predict(images)
            for each in (models, optimized)
        )
        assert len(plain[0]) > 3 and agreement(ours, plain, iou=0.98) >= 0.97


def test_a_localizer() -> None:
    model = make_localizer()
    randomise(model)
    images = images_of(*UNEQUAL)
    plain = model.predict(images)
    assert agreement(copy.deepcopy(model).optimize_for_inference().predict(images), plain) == 1
    found = copy.deepcopy(model).optimize_for_inference(precision="bfloat16").predict(images)
    assert all(torch.isfinite(d.boxes_xyxy).all() and d.scores.dtype == torch.float32 for d in found)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        model.optimize_for_inference().train()


@pytest.mark.slow
def test_compiled_with_images_of_many_sizes() -> None:
    """Two networks in one process, each with its own weights; several sizes, and batches of one to three images."""
    torch._dynamo.reset()
    for seed in (7, 8):
        model = tame(small("fpn", ()), seed)
        ours = copy.deepcopy(model).optimize_for_inference(compile=True)
        for sizes in (((64, 64),), ((96, 64),), UNEQUAL, ((128, 96), (64, 64), (32, 100))):
            images = images_of(*sizes)
            assert agreement(ours.predict(images), model.predict(images)) >= 0.99


@torch.no_grad()
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_show(precision: str) -> None:
    """Nothing on the way turns NaN into numbers."""
    model = small("fpn", ())
    assert len(model.predict(images_of(*UNEQUAL))[0])
    model.get_submodule("backbone.body.layer2.0.conv1").weight.fill_(torch.nan)
    for each in (model, copy.deepcopy(model).optimize_for_inference(precision=precision)):
        assert not each.features(images_of(*UNEQUAL))["p3"].isfinite().any()
        assert not any(map(len, each.predict(images_of(*UNEQUAL))))
