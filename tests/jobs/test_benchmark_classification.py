"""`detres benchmark classify` at a tiny size."""

from pathlib import Path

import pytest
import torch

from detres.jobs.benchmark import DifferentWork, benchmark, ceiling, format_results, timing, write_results
from detres.jobs.benchmark.classification import check_same, make_batch, make_networks
from detres.jobs.benchmark.conditions import Conditions
from detres.jobs.benchmark.plain_cifar import PlainCifarResNet
from detres.jobs.benchmark.training import check_steps, plain_step, timed_step

CPU = torch.device("cpu")


def test_the_plain_network_is_the_papers() -> None:
    network = PlainCifarResNet(20)
    assert sum(p.numel() for p in network.parameters()) == 269_722  # 0.27 M in its table 6
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_both_networks_compute_the_same() -> None:
    theirs, ours = make_networks(CPU)
    same = check_same(theirs, ours, make_batch(4, CPU))
    assert same["loss"]["detres"] == pytest.approx(same["loss"]["torchvision"], rel=1e-5)
    assert same["gradient"]["difference"] < 1e-4
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_other_weights_are_refused() -> None:
    theirs, ours = make_networks(CPU)
    with torch.no_grad():
        ours.fc.weight *= 1.01
    with pytest.raises(DifferentWork, match="loss: torchvision computes"):
        check_same(theirs, ours, make_batch(4, CPU))


def test_a_step_that_computes_something_else_is_refused() -> None:
    conditions = Conditions(device=CPU)
    _, ours = make_networks(CPU)
    plain, timed = plain_step(ours, conditions), timed_step(ours, conditions)
    assert check_steps(plain, timed, make_batch(4, CPU))["timed gradient"]["difference"] < 1e-2
    with torch.no_grad():
        timed.model.get_parameter("fc.weight").mul_(1.1)
    with pytest.raises(DifferentWork, match="loss_cls: plain detres computes"):
        check_steps(plain, timed, make_batch(4, CPU))


def test_whole_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "_SIZES", {"cpu": (1, 8, 8, 32, 1)})
    monkeypatch.setattr(timing, "_SHORTEST_TURN", 0.0)
    results = benchmark(
        ("classify",), batch_size=2, repeats=1, threads=1, precision="bfloat16", allocator="tuned",
        progress=lambda _text: None,
    )  # fmt: skip
    figures = results["works"]["classify"]
    # 40.6 million multiply-adds an image forward; backward twice that, less the gradient of the picture
    assert sum(figures["operations"]["torchvision"].values()) == pytest.approx(2 * 2 * (3 * 40.56e6 - 0.44e6), rel=0.01)
    assert set(figures["parts"]["detres"]) == {"input", "forward", "backward", "optimizer"}
    assert {side["allocator"] for side in figures["sides"].values()} == {"tuned"}
    assert set(results["ceilings"]) == {"float32", "bfloat16"}
    text = format_results(results)
    assert "classification training step, 2 x 32 x 32" in text and "precision bfloat16" in text
    _, chart = write_results(results, tmp_path)
    assert chart.stat().st_size > 5_000
