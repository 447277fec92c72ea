"""`detres benchmark` at a tiny size: what it reports, and that it compares nothing but the same work."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from detres.cli import main
from detres.jobs.benchmark import DifferentWork, benchmark, ceiling, format_results, timing, write_results
from detres.jobs.benchmark.agreement import (
    agreement,
    check_inference,
    check_losses,
    check_settings,
    same_operations,
    same_tensors,
)
from detres.jobs.benchmark.conditions import Conditions
from detres.jobs.benchmark.detection import compare_detectors
from detres.jobs.benchmark.parts import PARTS
from detres.jobs.benchmark.twins import Inputs, Twins, make_inputs, make_twins

CPU = torch.device("cpu")
SIZE = (64, 96)
FEW = (20, 20)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # at this size, threads only wait for each other
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETRES_DATASETS", raising=False)
    monkeypatch.setattr(ceiling, "_SIZES", {"cpu": (1, 8, 8, 32, 1)})
    monkeypatch.setattr(timing, "_SHORTEST_TURN", 0.0)


@pytest.fixture(scope="module")
def twins() -> Twins:
    made = make_twins(CPU, FEW)
    made.expect(SIZE)
    return made


@pytest.fixture
def inputs() -> Inputs:
    return make_inputs(SIZE, 1, None, CPU)


def test_no_boxes_agree() -> None:
    nothing = [torch.zeros(0, 4)]
    assert agreement("boxes", nothing, nothing) == {"per_image": [0], "same": 1.0, "iou": 0.99}


def test_agreement_is_of_boxes_and_labels() -> None:
    boxes = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 30.0, 30.0]])]
    labels, others = [torch.tensor([0, 1])], [torch.tensor([0, 2])]
    assert agreement("boxes", boxes, [boxes[0].flip(0)], labels, [labels[0].flip(0)])["same"] == 1.0
    with pytest.raises(DifferentWork, match=r"only 50\.0% of 2"):
        agreement("boxes", boxes, boxes, labels, others)
    with pytest.raises(DifferentWork, match=r"boxes per image: torchvision has \[2\], detres \[1\]"):
        agreement("boxes", boxes, [boxes[0][:1]])


def test_rounding_is_allowed_for() -> None:
    boxes = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 5.0, 70.0, 30.0]])]
    moved = [boxes[0] + torch.tensor([0.2, 0.0, 0.2, 0.0])]  # IoU 0.961 and 0.980
    assert agreement("boxes", boxes, [moved[0][:1]], iou=0.9, least=0.5, as_many=False)["same"] == pytest.approx(2 / 3)
    with pytest.raises(DifferentWork, match=r"only 0\.0% of 2 have the same box \(IoU > 0\.99\)"):
        agreement("boxes", boxes, moved)
    assert agreement("boxes", boxes, [boxes[0][:0]], least=0.0, as_many=False)["same"] == 0.0


def test_gradients_are_compared_by_name_and_length() -> None:
    theirs = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    ours = {"a": torch.tensor([3.0, 0.03]), "b": torch.tensor([4.04])}
    assert same_tensors("gradient", theirs, ours, 0.02)["difference"] == pytest.approx(0.01)
    with pytest.raises(DifferentWork, match=r"differ by 0\.01 of their length; expected 0\.001"):
        same_tensors("gradient", theirs, ours, 1e-3)
    with pytest.raises(DifferentWork, match="only one side has b"):
        same_tensors("gradient", theirs, {"a": ours["a"]}, 1.0)


def test_less_arithmetic_is_refused_and_more_is_not() -> None:
    assert same_operations(100.0, 150.0) == {"torchvision": 100.0, "detres": 150.0}
    assert same_operations(2e9, 1.9e9, may_save=True)["detres"] == 1.9e9
    with pytest.raises(DifferentWork, match=r"needs 2\.000 GFLOP, detres only 1\.900"):
        same_operations(2e9, 1.9e9)


def test_whole_benchmark(tmp_path: Path) -> None:
    said: list[str] = []
    works = ("infer", "train")
    results = benchmark(
        works, size_hw=SIZE, batch_size=1, repeats=1, threads=1, num_proposals=FEW, progress=said.append
    )
    assert list(results["works"]) == ["infer", "train"] and said
    assert results["settings"]["threads"] == 1 and results["settings"]["precision"] == "float32"
    assert set(results["ceilings"]) == {"float32"} and min(results["ceilings"]["float32"].values()) > 0
    infer, train = results["works"]["infer"], results["works"]["train"]
    assert infer["same"]["proposals"]["same"] == 1.0 and infer["same"]["proposals"]["per_image"] == [20]
    assert infer["same"]["timed detections"]["same"] == 1.0 and infer["same"]["detections"]["per_image"][0] > 5
    assert train["same"]["loss_classifier"]["detres"] > 0 and train["same"]["gradient"]["difference"] < 1e-2
    assert (
        infer["sides"]["detres"]["norms"] == "folded" and train["sides"]["detres"]["memory format"] == "channels last"
    )
    for work, figures in results["works"].items():
        assert figures["size_hw"] == [64, 96] and figures["batch_size"] == 1 and figures["input"] == "generated"
        allocators = {side: figures["sides"][side]["allocator"] for side in figures["sides"]}
        assert allocators == {"torchvision": "default", "detres": "tuned"}
        for side in ("torchvision", "detres"):
            assert len(figures["seconds"][side]["each"]) == 1
            assert figures["ceiling_share"][side] > 0
            expected = _PARTS_OF_TRAINING if work == "train" else _PARTS_OF_INFERENCE
            assert set(expected) <= set(figures["parts"][side]), set(figures["parts"][side])
        assert figures["ratio"]["median"] == pytest.approx(
            figures["seconds"]["torchvision"]["median"] / figures["seconds"]["detres"]["median"]
        )
    text = format_results(results)
    assert "100.0% of 20 proposals" in text and "ratio" in text and "RoI pooling" in text and "of the ceiling" in text

    table, chart = write_results(results, tmp_path / "made")
    assert json.loads(table.read_text()) == results
    assert chart.stat().st_size > 5_000


_PARTS_OF_INFERENCE = ("input", "backbone, FPN", "RPN head", "proposals", "RoI pooling", "box head", "selection")
_PARTS_OF_TRAINING = (*_PARTS_OF_INFERENCE, "backward", "optimizer")


def test_sixteen_bits_against_plain_detres() -> None:
    conditions = Conditions(device=CPU, precision="bfloat16", against="detres", repeats=1, progress=lambda _text: None)
    contest = compare_detectors("infer_v2", conditions, SIZE, 1, num_proposals=FEW)
    assert list(contest.sides) == ["plain detres", "detres"]
    assert contest.sides["detres"].settings["precision"] == "bfloat16"
    assert contest.sides["plain detres"].settings["precision"] == "float32"
    assert contest.about["same"]["timed detections"]["iou"] == 0.9


def test_all_parts_have_their_place() -> None:
    assert set(_PARTS_OF_TRAINING) < set(PARTS)


def test_different_settings_are_refused(twins: Twins) -> None:
    before = twins.ours.rpn.nms_iou
    twins.ours.rpn.nms_iou = 0.5
    try:
        with pytest.raises(DifferentWork, match=r"rpn nms_iou: torchvision 0\.7, detres 0\.5"):
            check_settings(twins)
    finally:
        twins.ours.rpn.nms_iou = before


@pytest.mark.parametrize(
    ("check", "message"), [(check_inference, "detections|proposals"), (check_losses, "loss_")], ids=["infer", "train"]
)
def test_different_results_are_refused(
    twins: Twins, inputs: Inputs, check: Callable[[Twins, Inputs], object], message: str
) -> None:
    weight = twins.ours.roi_heads.box_predictor.cls_score.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight *= 0.5
    try:
        with pytest.raises(DifferentWork, match=message):
            check(twins, inputs)
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"repeats": 0}, "got 0, expected 1 or more"),
        ({"batch_size": 0}, "got 0, expected 1 or more"),
        ({"threads": 0}, "got 0, expected 1 or more"),
        ({"size_hw": (32, 640)}, "expected height and width of 64"),
        ({"works": ["infer", "guess"]}, "got 'guess', expected some of infer, infer_v2, train, data"),
        ({"against": "detectron2"}, "got 'detectron2', expected one of torchvision, detres"),
        ({"allocator": "jemalloc"}, "expected one of own, default, tuned"),
        ({"precision": "int8"}, "expected one of float32, bfloat16, float16"),
        ({"works": ["eval"], "against": "detres"}, "got detres for eval"),
        ({"works": ["eval", "data"], "precision": "bfloat16"}, "precision: means nothing for eval, data"),
        ({"works": ["eval"], "compile": True}, "compile: means nothing for eval"),
        ({"works": ["data"], "data": "/no/such/folder"}, "/no/such/folder: no such folder"),
        ({"works": ["train"], "profile": True}, "expected train and --device cuda"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark(**wrong)


def test_the_command_names_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--against", "mmdetection", "infer", "train"]) == 1
    assert "against: got 'mmdetection', expected one of torchvision, detres" in capsys.readouterr().err


def test_images_are_read_and_resized(real_data: Path) -> None:
    photo = next((real_data / "coco" / "train2017").glob("*.jpg"))
    made = make_inputs((70, 90), 3, str(photo), CPU)
    assert made.source == photo.name and made.batch().pixels.shape == (3, 3, 96, 96)
    assert made.theirs[0].shape == (3, 70, 90) and float(made.theirs[0].max()) <= 1
    assert made.our_targets.boxes_xyxy.shape == (3, 8, 4)
