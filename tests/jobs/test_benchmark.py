"""`detres benchmark` at a tiny size: what it reports, and that it compares nothing but the same work."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detres.jobs.benchmark import DifferentWork, benchmark, format_results, write_results
from detres.jobs.benchmark.agreement import agreement, check_same_work
from detres.jobs.benchmark.timing import PARTS, Side, compare, measure_parts
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
    assert agreement("boxes", nothing, nothing) == {"per_image": [0], "same": 1.0}


def test_agreement_is_of_boxes_and_labels() -> None:
    boxes = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 30.0, 30.0]])]
    labels, others = [torch.tensor([0, 1])], [torch.tensor([0, 2])]
    assert agreement("boxes", boxes, [boxes[0].flip(0)], labels, [labels[0].flip(0)])["same"] == 1.0
    with pytest.raises(DifferentWork, match=r"only 50\.0% of 2"):
        agreement("boxes", boxes, boxes, labels, others)
    with pytest.raises(DifferentWork, match=r"boxes per image: torchvision has \[2\], detres \[1\]"):
        agreement("boxes", boxes, [boxes[0][:1]])


def test_whole_benchmark(tmp_path: Path) -> None:
    said: list[str] = []
    results = benchmark(size_hw=SIZE, batch_size=1, repeats=1, threads=1, num_proposals=FEW, progress=said.append)
    assert list(results["works"]) == ["infer", "train"] and said
    assert results["settings"]["threads"] == 1 and results["settings"]["dtype"] == "float32"
    infer, train = results["works"]["infer"], results["works"]["train"]
    assert infer["same"]["proposals"] == {"per_image": [20], "same": 1.0}
    assert infer["same"]["detections"]["same"] == 1.0 and infer["same"]["detections"]["per_image"][0] > 5
    assert train["same"]["loss_classifier"]["detres"] > 0
    for work, figures in results["works"].items():
        assert figures["size_hw"] == [64, 96] and figures["batch_size"] == 1 and figures["input"] == "generated"
        for side in ("torchvision", "detres"):
            assert len(figures["seconds"][side]["each"]) == 1
            assert list(figures["parts"][side]) == list(PARTS if work == "train" else PARTS[:7])
        assert figures["ratio"]["median"] == pytest.approx(
            figures["seconds"]["torchvision"]["median"] / figures["seconds"]["detres"]["median"]
        )
    text = format_results(results)
    assert "100.0% of 20 proposals" in text and "ratio" in text and "RoI pooling" in text

    table, chart = write_results(results, tmp_path / "made")
    assert json.loads(table.read_text()) == results
    assert chart.stat().st_size > 5_000


@pytest.mark.parametrize("work", ["infer", "train"])
def test_different_settings_are_refused(twins: Twins, inputs: Inputs, work: str) -> None:
    before = twins.ours.rpn.nms_iou
    twins.ours.rpn.nms_iou = 0.5
    try:
        with pytest.raises(DifferentWork, match=r"rpn nms_iou: torchvision 0\.7, detres 0\.5"):
            check_same_work(work, twins, inputs)
    finally:
        twins.ours.rpn.nms_iou = before


@pytest.mark.parametrize(("work", "message"), [("infer", "detections|proposals"), ("train", "loss_")])
def test_different_results_are_refused(twins: Twins, inputs: Inputs, work: str, message: str) -> None:
    weight = twins.ours.roi_heads.box_predictor.cls_score.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight *= 0.5
    try:
        with pytest.raises(DifferentWork, match=message):
            check_same_work(work, twins, inputs)
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_sides_take_turns() -> None:
    order: list[str] = []
    sides = {name: Side(lambda lap, name=name: order.append(name), {}) for name in "ab"}
    figures = compare(sides, 2, CPU, lambda _text: None)
    assert "".join(order) == "ababab"  # one round to warm up, two that count
    assert len(figures["ratio"]["each"]) == 2 and figures["ratio"]["min"] <= figures["ratio"]["median"]


def test_parts_cover_the_whole_pass() -> None:
    inner, outer, other = torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity()

    def step(lap: object) -> None:
        for module in (outer, inner, other):
            module(torch.zeros(1))
        assert callable(lap)
        lap("forward")
        lap("backward")

    side = Side(step, {"RPN head": [inner], "proposals": [outer], "box head": [other]})
    parts = measure_parts({"a": side}, 1, CPU)["a"]
    assert set(parts) == {"RPN head", "proposals", "box head", "selection", "backward"}


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"batch_size": 0}, {"threads": 0}, {"size_hw": (32, 640)}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"got .*, expected"):
        benchmark(**wrong)  # type: ignore[arg-type]


def test_images_are_read_and_resized(real_data: Path) -> None:
    photo = next((real_data / "coco" / "train2017").glob("*.jpg"))
    made = make_inputs((70, 90), 3, str(photo), CPU)
    assert made.source == photo.name and made.batch().pixels.shape == (3, 3, 96, 96)
    assert made.theirs[0].shape == (3, 70, 90) and float(made.theirs[0].max()) <= 1
    assert made.our_targets.boxes_xyxy.shape == (3, 8, 4)
