"""Whole detectors, built from what a file of detectron2's implies, against numbers recorded from detectron2."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detres import wiring
from detres.config.model import FasterRCNNSettings
from detres.detector import FasterRCNN
from detres.layers.pixels import PixelNormalizer
from detres.structures import Detections, GroundTruth, ImageBatch, Proposals
from detres.weights.formats import detectron2
from tests.backbones.test_backbones_golden import golden_weights


@pytest.fixture(scope="module", params=["R50-FPN", "R50-C4"])
def case(golden: Path, request: pytest.FixtureRequest) -> tuple[FasterRCNN, dict[str, np.ndarray]]:
    """The detector that a detectron2 file with the recorded weights implies, and the recorded numbers."""
    weights = golden_weights(golden, request.param)
    found = detectron2.implied(weights, {})
    settings = FasterRCNNSettings.model_validate(found.model)
    with torch.device("meta"):
        model = wiring.build_detector(settings, len(found.class_names))
    model.pixels = PixelNormalizer(**settings.pixels.model_dump())  # real tensors for what is in no state dict
    model.load_state_dict(detectron2.to_detres(weights), assign=True)
    with np.load(golden / f"golden_{request.param}.npz") as file:
        return model.eval(), {key: file[key] for key in file.files}


def batch(golden: Path, names: str, divisor: int) -> ImageBatch:
    images = [np.asarray(Image.open(golden / f"image_{name}.png").convert("RGB")) for name in names]
    tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images]
    return ImageBatch.from_images(tensors, size_divisibility=divisor)


def check_map(expected: dict[str, np.ndarray], name: str, got: Tensor) -> None:
    assert tuple(got.shape) == tuple(expected[f"{name}/shape"])
    samples = got.detach().flatten().double().numpy()[expected[f"{name}/index"]]
    assert np.abs(samples - expected[f"{name}/value"]).max() < 1e-4 * expected[f"{name}/std"], name


def check_rows(
    expected: dict[str, np.ndarray], name: str, boxes: Tensor, scores: Tensor, labels: Tensor | None
) -> None:
    """Rows are paired by content: neighbouring scores are closer than rounding. One may be missing, as recorded."""
    free, missed = torch.ones(len(boxes), dtype=torch.bool), 0
    wanted_scores = expected[f"{name}/scores" if labels is not None else f"{name}/logits"]
    for i, (box, score) in enumerate(zip(expected[f"{name}/boxes"], wanted_scores, strict=True)):
        fits = free & ((boxes - torch.tensor(box)).abs() < 1e-2).all(1) & ((scores - float(score)).abs() < 2e-4)
        if labels is not None:
            fits &= labels == int(expected[f"{name}/classes"][i])
        if fits.any():
            free[fits.nonzero()[0, 0]] = False
        else:
            missed += 1
    assert missed <= 1, f"{name}: {missed} rows differ"
    assert len(boxes) == len(wanted_scores)


@pytest.mark.parametrize("names", ["a", "ab"])
def test_inference(golden: Path, case: tuple[FasterRCNN, dict[str, np.ndarray]], names: str) -> None:
    model, expected = case
    is_c4 = "c4" in model.roi_heads.names
    if is_c4 and names == "ab":
        pytest.skip("conv5 on 2000 regions takes 15 seconds; the batch is tested with FPN")
    images = batch(golden, names, model.pixels.size_divisibility)
    with torch.no_grad():
        pixels = model.pixels(images)
        features = model.backbone(pixels)
        logits, deltas = model.rpn.head([features[name] for name in model.rpn.names])
        proposals, _ = model.rpn(images, features)
        found = model.roi_heads.detect(images, features, proposals)
    check_map(expected, f"{names}/input/tensor", pixels)
    for name, feature in features.items():
        check_map(expected, f"{names}/feat/{name.replace('c', 'res')}", feature)
    for name, level, level_deltas in zip(model.rpn.names, logits, deltas, strict=True):
        cells, key = features[name].shape[-2:], f"{names}/rpn/{name.replace('c', 'res')}"
        check_map(expected, f"{key}/logits", level.unflatten(1, (*cells, -1)).permute(0, 3, 1, 2))
        check_map(expected, f"{key}/deltas", level_deltas.flatten(1).unflatten(1, (*cells, -1)).permute(0, 3, 1, 2))
    for i, letter in enumerate(names):
        prefix = letter if names == letter else f"{names}/{letter}"
        check_rows(expected, f"{prefix}/proposals", proposals.boxes_xyxy[i, :50], proposals.logits[i, :50], None)
        detections: Detections = found[i]
        check_rows(expected, f"{prefix}/detections", detections.boxes_xyxy, detections.scores, detections.labels)
    if names == "a":
        boxes = torch.from_numpy(expected["a/boxes16/boxes"])
        with torch.no_grad():
            class_logits, box_deltas = model.roi_heads.regions(images, features, boxes[None])
        torch.testing.assert_close(
            class_logits, torch.from_numpy(expected["a/boxes16/class_logits"]), atol=2e-4, rtol=0
        )
        torch.testing.assert_close(
            box_deltas.flatten(1), torch.from_numpy(expected["a/boxes16/box_deltas"]), atol=2e-4, rtol=0
        )


@pytest.mark.parametrize("names", ["a", "ab"])
def test_training_losses(golden: Path, case: tuple[FasterRCNN, dict[str, np.ndarray]], names: str) -> None:
    """The four losses on the recorded boxes, with every anchor and every given proposal in the sample."""
    model, expected = case
    group = f"train_{names}"
    images = batch(golden, names, model.pixels.size_divisibility)
    parts = [group if names == "a" else f"{group}/{letter}" for letter in names]
    targets = GroundTruth.from_lists(
        [torch.from_numpy(expected[f"{part}/gt_boxes"]) for part in parts],
        [torch.from_numpy(expected[f"{part}/gt_classes"]) for part in parts],
    )
    proposals = given_proposals([torch.from_numpy(expected[f"{part}/proposals"]) for part in parts])
    rpn, heads = model.rpn, model.roi_heads
    settings: dict[Any, Any] = {rpn: (rpn.batch_size, rpn.positive_fraction), heads: (4096, 1.0)}
    rpn.batch_size, rpn.positive_fraction = 262144, 1.0
    heads.batch_size, heads.positive_fraction, heads.add_ground_truth = 4096, 1.0, False
    with torch.no_grad():
        features = model.backbone(model.pixels(images))
        _, losses = rpn(images, features, targets)
        losses |= heads.losses(images, features, proposals, targets)
    rpn.batch_size, rpn.positive_fraction = settings[rpn]
    heads.add_ground_truth = True
    for ours, theirs in {
        "loss_rpn_objectness": "loss_rpn_cls",
        "loss_rpn_box": "loss_rpn_loc",
        "loss_classifier": "loss_cls",
        "loss_box": "loss_box_reg",
    }.items():
        assert float(losses[ours]) == pytest.approx(float(expected[f"{group}/{theirs}"]), rel=1e-5), ours


def given_proposals(boxes: list[Tensor]) -> Proposals:
    padded = torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True)
    count = torch.tensor([len(b) for b in boxes])
    valid = torch.arange(padded.shape[1]) < count[:, None]
    return Proposals(padded, valid.float(), valid)
