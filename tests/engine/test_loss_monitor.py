"""Losses are collected without looking, and bad ones are found afterwards."""

import json

import pytest
import torch

from detres.engine.loss_monitor import LossMonitor, NonFiniteLoss, total_loss
from detres.structures import Batch, ImageBatch


def _batch(*names):
    images = ImageBatch.from_images([torch.zeros(3, 2, 2)] * len(names))
    return Batch(images, torch.zeros(len(names)), list(names), [f"{name}.jpg" for name in names])


@pytest.fixture
def monitor(tmp_path):
    def report(name, value):
        (tmp_path / name).write_text(json.dumps(value))
        return tmp_path / name

    return LossMonitor(report)


def _add(monitor, step, *parts, norm=1.0):
    losses = [{"loss_a": torch.tensor(a), "loss_b": torch.tensor(b)} for a, b in parts]
    monitor.add(step, 0.1, [_batch(f"{step}_{i}") for i in range(len(parts))], losses, torch.tensor(norm))


def test_nothing_noted(monitor):
    monitor.check()
    assert monitor.take_means() == {}


def test_means_over_parts_and_steps(monitor):
    _add(monitor, 1, (1.0, 2.0), (3.0, 4.0))
    monitor.check()
    _add(monitor, 2, (4.0, 5.0), (4.0, 5.0), norm=3.0)
    assert monitor.take_means() == {"loss": 7.0, "loss_a": 3.0, "loss_b": 4.0, "grad_norm": 2.0}
    assert monitor.take_means() == {}


def test_the_first_bad_step_of_many_is_named(monitor, tmp_path):
    for step in range(1, 6):
        bad = float("nan") if step >= 3 else 1.0
        _add(monitor, step, (1.0, 1.0), (1.0, bad))
    expected = r"step 3: the loss is not finite \(loss_a 1, loss_b nan; .* images 3_1.jpg\."
    with pytest.raises(NonFiniteLoss, match=expected):
        monitor.check()
    record = json.loads((tmp_path / "bad_batch_step3.json").read_text())
    losses = {"loss_a": "1.0", "loss_b": "nan"}
    assert record["parts"][1] == {"losses": losses, "image_ids": ["3_1"], "files": ["3_1.jpg"]}


def test_a_full_disk_hides_neither_the_step_nor_its_images():
    def report(name, value):
        raise OSError(28, f"cannot write {name}: No space left on device")

    monitor = LossMonitor(report)
    _add(monitor, 3, (1.0, float("nan")))
    with pytest.raises(NonFiniteLoss, match=r"step 3: .* images 3_0\.jpg\. .*\(.*bad_batch_step3\.json: No space left"):
        monitor.check()


def test_gradients_are_the_scaler_s_business_if_there_is_one(monitor):
    monitor._check_gradients = False
    _add(monitor, 1, (1.0, 1.0), norm=float("inf"))
    monitor.check()
    monitor._check_gradients = True
    _add(monitor, 2, (1.0, 1.0), norm=float("inf"))
    with pytest.raises(NonFiniteLoss, match="step 2: the gradient is not finite"):
        monitor.check()


def test_many_files_are_not_all_listed(monitor):
    losses = [{"loss": torch.tensor(float("inf"))}]
    monitor.add(1, 0.1, [_batch(*map(str, range(20)))], losses, torch.tensor(1.0))
    with pytest.raises(NonFiniteLoss, match=r"6.jpg, 7.jpg \.\.\.\. The batch"):
        monitor.check()


def test_values_that_are_no_losses_are_averaged_but_not_summed(monitor):
    values = {"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(2.0), "error_top1": torch.tensor(0.5)}
    assert total_loss(values).item() == 3.0
    parts = [values, {**values, "error_top1": torch.tensor(0.25)}]
    monitor.add(1, 0.1, [_batch("a"), _batch("b")], parts, torch.tensor(1.0))
    assert monitor.take_means() == {"loss": 3.0, "loss_a": 1.0, "loss_b": 2.0, "error_top1": 0.375, "grad_norm": 1.0}
    assert monitor.latest["error_top1"] == 0.375
