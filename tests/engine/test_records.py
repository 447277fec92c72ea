"""When to evaluate, and which evaluation is the best."""

import pytest

from detres.engine.records import Progress, TrainerSettings, plain_metrics
from detres.engine.speed import SpeedMeter


def test_step_zero_is_never_evaluated():
    assert not TrainerSettings(steps=10).evaluates_at(0, 1.0)


@pytest.mark.parametrize(
    ("every", "epoch", "expected"),
    [
        (4, 1.0, [4, 8, 10]),
        (None, 2.5, [3, 5, 8, 10]),
        (None, 1 / 3, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (None, 50.0, [10]),
    ],
)
def test_evaluations_by_steps_or_epochs(every, epoch, expected):
    settings = TrainerSettings(steps=10, eval_every=every)
    assert [step for step in range(11) if settings.evaluates_at(step, epoch)] == expected


def test_less_is_better_for_losses_only():
    progress = Progress(step=1)
    assert progress.judge({"val_loss": 2.0}, "val_loss")
    assert progress.judge({"val_loss": 1.0}, "val_loss")
    assert not progress.judge({"val_loss": 1.5}, "val_loss")
    assert (progress.best, progress.evals_without_gain) == (1.0, 1)
    progress = Progress(step=1)
    assert progress.judge({"AP": 0.0}, "AP") and progress.judge({"AP": 0.1}, "AP")
    assert not progress.judge({"AP": 0.1}, "AP") and not progress.judge({"AP": None}, "AP")
    assert (progress.best, progress.evals_without_gain) == (0.1, 1)


def test_no_metrics_at_all():
    with pytest.raises(ValueError, match=r"best_metric 'AP' is not among the metrics \(none\)"):
        Progress().judge({}, "AP")


def test_plain_metrics():
    np = pytest.importorskip("numpy")
    found = plain_metrics({"a": np.float64(0.5), "b": float("inf"), "c": None}, prefix="val_")
    assert found == {"val_a": 0.5, "val_b": None, "val_c": None} and type(found["val_a"]) is float


def test_speed():
    meter = SpeedMeter()
    assert meter.take() == {}
    meter.add(images=4, seconds=2.0, loading_seconds=0.5)
    meter.add(images=4, seconds=2.0, loading_seconds=0.5)
    assert meter.take() == {"images_per_second": 2.0, "seconds_per_step": 2.0, "loading_share": 0.25}
    assert meter.take() == {}
