"""Learning-rate schedules against detectron2's, and scaling to the batch."""

import json
import math

import pytest

from detres.engine.schedule import build_schedule, multistep_factor, scale_to_batch


def test_constant_without_warmup():
    schedule = build_schedule(type="constant", steps=10)
    assert [schedule(step) for step in (0, 5, 9)] == [1.0, 1.0, 1.0]
    assert schedule.state_dict() == {} and not schedule.observe(False)


@pytest.mark.parametrize("case", ["coco_1x", "step_inside_warmup", "constant_warmup"])
def test_multistep_equals_detectron2(golden, case):
    expected = json.loads((golden / "blocks.json").read_text())["lr_schedule"][case]
    schedule = build_schedule(
        type="multistep",
        steps=expected["max_iter"],
        milestones=expected["steps"],
        gamma=expected["gamma"],
        warmup_steps=expected["warmup_iters"],
        warmup_factor=expected["warmup_factor"],
        warmup_shape=expected["method"],
    )
    rates = [expected["base_lr"] * schedule(step) for step in expected["iters"]]
    assert rates == pytest.approx(expected["lr"], rel=1e-12)


def test_multistep_falls_at_the_milestone_itself():
    assert [multistep_factor(step, [3, 5]) for step in (2, 3, 4, 5)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_cosine_ends_at_its_final_factor():
    schedule = build_schedule(type="cosine", steps=100, final_factor=0.1)
    assert schedule(0) == 1.0 and schedule(50) == pytest.approx(0.55) and schedule(100) == pytest.approx(0.1)
    assert schedule(25) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_warmup_meets_the_cosine():
    schedule = build_schedule(type="cosine", steps=100, warmup_steps=10, warmup_factor=0.0)
    values = [schedule(step) for step in range(100)]
    assert values[0] == 0.0 and values[5] == pytest.approx(values[10] / 2)
    assert max(values) == values[10]


def test_plateau_falls_after_patience_and_not_below_its_least():
    schedule = build_schedule(type="plateau", steps=100, gamma=0.1, patience=2, min_factor=0.05)
    fell = [schedule.observe(gained) for gained in (True, False, True, False, False, False, False, False, False)]
    assert fell == [False, False, False, False, True, False, True, False, False]
    assert schedule(7) == 0.05
    other = build_schedule(type="plateau", steps=100)
    other.load_state_dict(schedule.state_dict())
    assert other(7) == 0.05


def test_unknown_type():
    with pytest.raises(ValueError, match="'step' is unknown, expected one of multistep, cosine"):
        build_schedule(type="step", steps=1)


COCO = {"lr": 0.02, "warmup_steps": 1000, "steps": 90000, "milestones": [60000, 80000]}


def test_nothing_is_scaled_for_the_reference_batch_or_without_one():
    for reference in (16, None):
        scaled = scale_to_batch(**COCO, reference=reference, actual=16)
        assert (scaled.lr, scaled.warmup_steps, scaled.steps, scaled.milestones) == (0.02, 1000, 90000, (60000, 80000))
        assert scaled.describe() == "learning rate and schedule as configured"


def test_a_smaller_batch_takes_more_and_smaller_steps():
    scaled = scale_to_batch(**COCO, reference=16, actual=4)
    assert scaled.lr == pytest.approx(0.005)
    assert (scaled.warmup_steps, scaled.steps, scaled.milestones) == (4000, 360000, (240000, 320000))
    assert scaled.describe() == (
        "batch 4 instead of 16 (train.reference_batch_size=null keeps the numbers as written), "
        "lr 0.02 → 0.005 (linear), warm-up 1000 → 4000 steps, "
        "length 90000 → 360000 steps, milestones 60000, 80000 → 240000, 320000"
    )


def test_rules_touch_the_learning_rate_only():
    assert scale_to_batch(**COCO, reference=16, actual=64, rule="sqrt").lr == pytest.approx(0.04)
    scaled = scale_to_batch(**COCO, reference=16, actual=64, rule="none")
    assert (scaled.lr, scaled.steps) == (0.02, 22500)


def test_epochs_become_steps_of_the_actual_batch():
    scaled = scale_to_batch(lr=0.1, warmup_steps=10, epochs=2.5, milestones=[1, 2], steps_per_epoch=30.4,
                            reference=8, actual=4)  # fmt: skip
    assert (scaled.steps, scaled.milestones, scaled.warmup_steps) == (76, (30, 61), 20)
    assert scaled.lr == pytest.approx(0.05)


def test_a_warmup_longer_than_half_the_run_is_cut():
    scaled = scale_to_batch(lr=1.0, warmup_steps=1000, steps=100, actual=2)
    assert scaled.warmup_steps == 50
    assert scaled.describe() == "warm-up 1000 → 50 steps (half the run)"


def test_milestones_stay_before_the_end():
    scaled = scale_to_batch(lr=1.0, warmup_steps=0, steps=10, milestones=[9], reference=1, actual=8)
    assert scaled.steps == 1 and scaled.milestones == (0,)


def test_steps_or_epochs():
    with pytest.raises(ValueError, match="one of steps and epochs"):
        scale_to_batch(lr=1.0, warmup_steps=0, actual=1)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        scale_to_batch(lr=1.0, warmup_steps=0, actual=1, epochs=1)


def test_a_warm_up_until_the_error_is_low_enough():
    schedule = build_schedule(type="multistep", steps=100, milestones=[50], warmup_factor=0.1, warmup_until_error=0.8)
    assert schedule(0) == schedule(40) == pytest.approx(0.1)
    schedule.observe_step({"loss": 1.0})  # tells nothing
    schedule.observe_step({"error_top1": 0.8})
    assert schedule(41) == pytest.approx(0.1)
    schedule.observe_step({"error_top1": 0.79})
    schedule.observe_step({"error_top1": 0.9})  # once over, it is over
    assert schedule(42) == 1.0 and schedule(50) == pytest.approx(0.1)

    resumed = build_schedule(type="multistep", steps=100, milestones=[50], warmup_factor=0.1, warmup_until_error=0.8)
    resumed.load_state_dict(schedule.state_dict())
    assert resumed(42) == 1.0
