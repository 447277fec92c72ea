"""How the benchmark times: turns, allocators, intervals, parts and ceilings, with clocks and sides made by hand."""

import warnings
from collections.abc import Iterator
from itertools import count

import pytest
import torch
from torch import nn

from detres.jobs.benchmark import timing
from detres.jobs.benchmark.ceiling import Ceilings, measure_rate
from detres.jobs.benchmark.contest import ceiling_shares
from detres.jobs.benchmark.machine import OtherLoad, processor_name
from detres.jobs.benchmark.parts import count_parts, measure_parts, read_parts
from detres.jobs.benchmark.synchronisations import summarise
from detres.jobs.benchmark.timing import Lap, Side, compare, median_interval, summary

CPU = torch.device("cpu")


def _silent(_text: str) -> None:
    """Nobody listens."""


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens in turn: names of sides, and of allocators in capitals; every turn takes a second of this clock."""
    happened: list[str] = []
    seconds: Iterator[int] = count()
    monkeypatch.setattr(timing, "use_allocator", lambda name: happened.append(name[0].upper()))
    monkeypatch.setattr(timing, "clock", lambda _device: float(next(seconds)))
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)  # a second and more in a process as large as the tests'
    return happened


def _sides(order: list[str], *allocators: str) -> dict[str, Side]:
    def step_of(name: str) -> "Side":
        return Side(lambda _lap: order.append(name), allocator=allocators["ab".index(name)])  # type: ignore[arg-type]

    return {name: step_of(name) for name in "ab"}


def test_sides_take_turns(order: list[str]) -> None:
    figures = compare(_sides(order, "tuned", "tuned"), 2, CPU, _silent)
    assert "".join(order) == "TaaaTbbbabab"  # three unmeasured steps of each, then two turns
    assert figures["steps_per_turn"] == 1 and figures["seconds"]["a"]["each"] == [1.0, 1.0]
    assert figures["ratio"]["each"] == [1.0, 1.0]


def test_each_turn_has_its_own_allocator(order: list[str]) -> None:
    compare(_sides(order, "default", "tuned"), 2, CPU, _silent)
    assert "".join(order) == 3 * "DaaaTbbb"  # two unmeasured steps after each change


def test_short_steps_fill_a_turn(order: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr(timing, "clock", lambda _device: 0.2 * next(ticks))
    figures = compare(_sides(order, "tuned", "tuned"), 1, CPU, _silent)
    assert figures["steps_per_turn"] == 3 and figures["seconds"]["a"]["median"] == pytest.approx(0.2 / 3)


@pytest.mark.parametrize(
    ("values", "low", "high", "confidence"),
    [
        ([4.0], 4.0, 4.0, 0.0),
        ([1.0, 3.0, 2.0], 1.0, 3.0, 0.75),
        (list(range(7)), 0, 6, 1 - 2 / 128),
        (list(range(8)), 0, 7, 1 - 2 / 256),  # the second ones would hold it with 1 - 18/256 = 93 %
        (list(range(9)), 1, 7, 1 - 2 * (1 + 9) / 512),
        (list(range(15)), 3, 11, 1 - 2 * (1 + 15 + 105 + 455) / 32768),
    ],
)
def test_interval_of_the_median(values: list[float], low: float, high: float, confidence: float) -> None:
    assert median_interval(values) == (low, high, pytest.approx(confidence))


def test_summaries_keep_every_value() -> None:
    found = summary([3.0, 1.0, 2.0])
    assert (found["median"], found["min"], found["max"], found["each"]) == (2.0, 1.0, 3.0, [3.0, 1.0, 2.0])


class _Outer(nn.Module):
    """A module with another inside, on a clock that only moves where it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()
        self.now = 0.0
        self.inner.register_forward_hook(lambda *_: self.wait(2.0))

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.wait(1.0)
        return self.inner(x)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize("compiled", [False, True])
def test_parts_lie_inside_each_other(compiled: bool) -> None:
    outer = _Outer()
    head = nn.Identity()
    if compiled:
        outer.compile(backend="eager")  # knows nothing of hooks that come later

    def step(lap: Lap) -> None:
        outer.wait(16.0)
        lap("input")
        outer(torch.zeros(1))
        outer.wait(4.0)
        head(torch.zeros(1))
        lap("selection")
        outer.wait(8.0)
        lap("optimizer")

    side = Side(step, {"proposals": [outer], "RPN head": [outer.inner], "box head": [head]})
    if compiled:
        side = Side(step, {"proposals": [outer], "box head": [head]})
    found = read_parts(side, outer.clock)
    inside = {"proposals": 3.0} if compiled else {"proposals": 1.0, "RPN head": 2.0}
    assert found == {"input": 16.0, **inside, "box head": 0.0, "selection": 4.0, "optimizer": 8.0}


def test_backward_is_what_the_gradients_take_beyond_the_forward_pass() -> None:
    outer = _Outer()

    def step(lap: Lap) -> None:
        outer(torch.zeros(1))
        outer.wait(5.0)
        lap("backward")

    assert read_parts(Side(step, {"forward": [outer]}), outer.clock) == {"forward": 3.0, "backward": 5.0}
    unseen = Side(step, {"forward": [nn.Identity()]})  # a compiled model calls no hooks
    assert read_parts(unseen, outer.clock) == {"forward and backward": 8.0}


def test_parts_are_measured_with_the_sides_allocator(order: list[str]) -> None:
    parts = measure_parts({"a": Side(lambda lap: lap("learning"), allocator="default")}, 2, CPU)
    assert order == ["D", "D"] and list(parts["a"]) == ["learning"]


def test_operations_are_counted_by_part() -> None:
    layer = nn.Linear(3, 5, bias=False)
    x = torch.randn(7, 3, requires_grad=True)

    def step(lap: Lap) -> None:
        layer(x).sum().backward()
        lap("backward")

    multiply_adds = 7 * 3 * 5
    assert count_parts(Side(step, {"forward": [layer]})) == {
        "forward": 2 * multiply_adds,
        "backward": 4 * multiply_adds,
    }


def test_rates_are_of_the_fastest_repeat() -> None:
    readings = iter([0.0, 4.0, 10.0, 12.0, 20.0, 25.0])  # 4, 2 and 5 seconds
    steps: list[int] = []
    assert measure_rate(lambda: steps.append(1), 100.0, lambda: next(readings), 3) == 50.0
    assert len(steps) == 4  # the first is not measured


def test_shares_are_of_the_higher_rate_of_ones_own_format() -> None:
    ceilings = Ceilings(CPU, _silent)
    ceilings.rates = {
        "float32": {"convolution": 100.0, "matrix product": 40.0},
        "bfloat16": {"convolution": 150.0, "matrix product": 200.0},
    }
    sides = {
        "torchvision": Side(lambda _lap: None, settings={"precision": "float32"}),
        "detres": Side(lambda _lap: None, settings={"precision": "bfloat16"}),
    }
    figures = {
        "seconds": {"torchvision": {"median": 4.0}, "detres": {"median": 1.0}},
        "parts": {"torchvision": {"forward": 2.0, "input": 1.0}, "detres": {"forward": 0.5}},
    }
    operations = {"torchvision": {"forward": 80.0, "backward": 20.0}, "detres": {"forward": 40.0, "backward": 20.0}}
    shares = ceiling_shares(sides, figures, operations, ceilings)
    assert shares["ceiling_share"] == {"torchvision": 0.25, "detres": 0.3}
    assert shares["ceiling_share_of_parts"] == {"torchvision": {"forward": 0.4}, "detres": {"forward": 0.4}}


def test_measuring_again_keeps_the_higher_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([{"convolution": 9.0, "matrix product": 4.0}, {"convolution": 8.0, "matrix product": 5.0}])
    monkeypatch.setattr("detres.jobs.benchmark.ceiling._measure", lambda _device, _dtype: next(found))
    ceilings = Ceilings(CPU, _silent)
    ceilings.measure("bfloat16")
    ceilings.measure("bfloat16")
    assert ceilings.rates == {"bfloat16": {"convolution": 9.0, "matrix product": 5.0}}


def test_rates_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detres.jobs.benchmark.ceiling._SIZES", {"cpu": (1, 8, 8, 32, 1)})
    said: list[str] = []
    ceilings = Ceilings(CPU, said.append)
    ceilings.measure("float32")
    assert min(ceilings.rates["float32"].values()) > 0 and "GFLOP/s" in said[0]


def test_waits_for_a_gpu_are_counted_by_place() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for line in (7, 9, 7):
            warnings.warn_explicit("called a synchronizing operation", UserWarning, "/somewhere/rpn.py", line)
    assert summarise(caught) == {"count": 3, "places": {"rpn.py:7": 2, "rpn.py:9": 1}}
    assert summarise([]) == {"count": 0, "places": {}}


def test_the_machine_is_described() -> None:
    assert isinstance(processor_name(), str)
    share = OtherLoad().share()
    assert share is None or 0 <= share <= 1
