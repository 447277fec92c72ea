"""The training loop: what it writes, how it resumes, stops and fails."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from detres.engine.checkpoint import CheckpointError, load_checkpoint
from detres.engine.interruption import Interrupted
from detres.engine.loss_monitor import NonFiniteLoss
from detres.engine.metrics_log import read_metrics


def _weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def _assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_run_without_evaluation_leaves_its_checkpoint_logs_and_environment(make_trainer, tmp_path):
    trainer = make_trainer(eval_every=3)
    before = _weights(trainer)
    summary = trainer.run()
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir()) == [
        "environment.json",
        "last.pt",
        "metrics.jsonl",
        "step_00000006.pt",
        "tensorboard",
    ]
    assert (summary.steps, summary.samples, summary.best, summary.best_checkpoint) == (6, 12, None, None)
    assert not torch.equal(before["fc.weight"], trainer.model.fc.weight)
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1, 2, 4, 6]
    row = read_metrics(run / "metrics.jsonl")[-1]
    assert row["loss"] == pytest.approx(row["loss_cls"] + row["loss_small"])
    assert {"lr", "epoch", "grad_norm", "images_per_second", "loading_share"} <= row.keys()
    state = load_checkpoint(run / "last.pt", kind="classifier")
    assert state["class_names"] == ["a", "b"] and state["progress"]["samples"] == 12
    assert trainer.loader.closed and trainer.reporter.steps == [1, 2, 3, 4, 5, 6]


def test_the_first_update_is_that_of_plain_torch(make_trainer, tiny_loader):
    trainer = make_trainer(steps=1, schedule={"warmup_factor": 0.5}, clip_grad_norm=0.05)
    model = make_trainer(folder="other").model
    parameters = list(model.parameters())
    plain = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)
    from detres.structures.random import derive_seed

    batch = tiny_loader().batch(0)
    torch.manual_seed(derive_seed(0, 1))
    sum(model(batch.images, batch.targets).values()).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 0.05)
    plain.step()
    trainer.run()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


RESUMED = {
    "sgd": {},
    "adamw, ema, accumulation": {
        "optimizer": {"type": "adamw", "lr": 0.01, "weight_decay": 0.05, "norm_weight_decay": 0.0},
        "ema_decay": 0.9, "accumulate": 2, "clip_grad_norm": 1.0,
    },
    "bfloat16, channels_last": {"precision": "bfloat16", "channels_last": True, "ema_decay": 0.99},
    "float16 with scaler": {"precision": "float16"},
    "plateau": {"schedule": {"type": "plateau", "patience": 1}, "eval_every": 2, "evaluate": lambda model: {"AP": 0.5}},
}  # fmt: skip


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make_trainer, tmp_path, options):
    options = {"eval_every": 3, "log_every": 1, **options}
    whole = make_trainer(folder="whole", **options)
    whole.run()
    first = make_trainer(folder="cut", **options)
    stop_at = 3
    advance = first.reporter.advance
    first.reporter.advance = lambda step: (advance(step), step == stop_at and os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        first.run()
    second = make_trainer(folder="cut", resume=True, **options)
    assert second.resume() == stop_at
    second.run()
    _assert_equal(_weights(whole), _weights(second))
    full, resumed = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    if full["ema"] is not None:
        _assert_equal(full["ema"], resumed["ema"])
    for name, state in full["optimizer"].items():
        _assert_equal(*({k: torch.as_tensor(v) for k, v in s.items()} for s in (state, resumed["optimizer"][name])))
    assert full["schedule"] == resumed["schedule"] and full["scaler"] == resumed["scaler"]
    assert {**full["progress"], "seconds": 0} == {**resumed["progress"], "seconds": 0}
    logged = [
        [(row["step"], row.get("loss"), row.get("lr")) for row in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "cut")
    ]
    assert logged[0] == logged[1]


def test_resume_without_a_checkpoint_starts_anew_and_says_so(make_trainer):
    trainer = make_trainer(resume=True)
    assert trainer.resume() == 0
    assert "starting from step 0" in trainer.reporter.messages[0]


def test_resume_takes_the_learning_rate_of_the_configuration(make_trainer):
    make_trainer(steps=2).run()
    trainer = make_trainer(resume=True, steps=4, optimizer={"type": "sgd", "lr": 0.5, "weight_decay": 0.0},
                           schedule={"type": "constant", "warmup_steps": 0})  # fmt: skip
    trainer.resume()
    trainer.run()
    assert trainer.reporter.logs[-1][1]["lr"] == 0.5


def test_a_finished_run_resumes_to_nothing(make_trainer):
    make_trainer().run()
    trainer = make_trainer(resume=True)
    trainer.resume()
    before = _weights(trainer)
    assert trainer.run().steps == 6
    _assert_equal(before, _weights(trainer))


def test_resume_refuses_another_optimizer_and_another_architecture(make_trainer):
    make_trainer(steps=2).run()
    other = make_trainer(resume=True, optimizer={"type": "adamw", "lr": 0.1, "weight_decay": 0.0})
    with pytest.raises(ValueError, match=r"momentum_buffer.*AdamW.*optimizer type of that run"):
        other.resume()
    other = make_trainer(resume=True)
    other.model.fc = torch.nn.Linear(4, 7)
    with pytest.raises(CheckpointError, match=r"last.pt is of another architecture: fc.weight has shape \(2, 4\)"):
        other.resume()
    other = make_trainer(resume=True)
    other.header["kind"] = "detector"
    with pytest.raises(CheckpointError, match="holds a classifier, expected a detector"):
        other.resume()


def test_evaluation_chooses_the_best_checkpoint(make_trainer, tmp_path):
    values = iter([0.2, 0.6, 0.4])
    trainer = make_trainer(eval_every=2, evaluate=lambda model: {"AP": next(values), "AP50": None},
                           validation_loss=lambda model: {"loss": 1.5, "loss_cls": 1.5})  # fmt: skip
    summary = trainer.run()
    assert (summary.best, summary.best_step, summary.metrics["AP"]) == (0.6, 4, 0.4)
    assert load_checkpoint(summary.best_checkpoint)["progress"]["step"] == 4
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "val"]
    assert [row["AP"] for row in rows] == [0.2, 0.6, 0.4]
    assert rows[0] == {"kind": "val", "step": 2, "val_loss": 1.5, "val_loss_cls": 1.5, "AP": 0.2, "AP50": None}
    assert any("AP 0.6000" in text and "best so far" in text for text in trainer.reporter.messages)


def test_evaluation_sees_the_averaged_weights_and_leaves_training_mode(make_trainer):
    seen = []

    def evaluate(model):
        seen.append((model, model.training))
        trainer.model.eval()
        return {"AP": 0.1}

    trainer = make_trainer(ema_decay=0.9, evaluate=evaluate, eval_every=3)
    trainer.run()
    assert [(model is trainer.ema.module, mode) for model, mode in seen] == [(True, False)] * 2
    assert trainer.model.training


def test_without_eval_every_each_epoch_is_evaluated(make_trainer):
    steps = []
    trainer = make_trainer(steps=7, evaluate=lambda model: steps.append(trainer.progress.step) or {"AP": 0.0})
    trainer.run()
    assert steps == [3, 6, 7]


def test_early_stopping_and_plateau(make_trainer):
    trainer = make_trainer(steps=50, eval_every=1, early_stopping=3, evaluate=lambda model: {"AP": 0.5},
                           schedule={"type": "plateau", "patience": 2, "gamma": 0.5, "warmup_steps": 0})  # fmt: skip
    summary = trainer.run()
    assert summary.stopped_early and summary.steps == 4 and summary.best_step == 1
    assert trainer.schedule.plateau.factor == 0.5
    assert any("learning rate falls to 0.05" in text for text in trainer.reporter.messages)


def test_a_metric_that_cannot_be_computed_is_no_judgement(make_trainer):
    trainer = make_trainer(eval_every=1, early_stopping=2, evaluate=lambda model: {"AP": float("nan")})
    summary = trainer.run()
    assert summary.steps == 6 and summary.best is None and summary.metrics == {"AP": None}


def test_an_unknown_best_metric_is_an_error_that_loses_no_training(make_trainer, tmp_path):
    trainer = make_trainer(eval_every=2, best_metric="AP5", evaluate=lambda model: {"AP50": 0.5, "AR": 0.1})
    with pytest.raises(ValueError, match="best_metric 'AP5' is not among the metrics AP50, AR; did you mean 'AP50'"):
        trainer.run()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["evaluated_step"] == 0
    again = make_trainer(resume=True, eval_every=2, best_metric="AP50", evaluate=lambda model: {"AP50": 0.5})
    again.resume()
    again.run()
    assert again.reporter.messages[1].startswith("evaluation after step 2")


def test_checkpoints_kept(make_trainer, tmp_path):
    make_trainer(checkpoint_every=1, keep_checkpoints=2).run()
    assert sorted(p.name for p in (tmp_path / "run").glob("step_*")) == ["step_00000005.pt", "step_00000006.pt"]
    make_trainer(folder="none", checkpoint_every=1, keep_checkpoints=0).run()
    assert not list((tmp_path / "none").glob("step_*"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_names_step_terms_and_images(make_trainer, tiny_loader, tmp_path, accumulate):
    size = 2 // accumulate
    trainer = make_trainer(loader=tiny_loader(size=size, poison=5), accumulate=accumulate, checkpoint_every=1)
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.run()
    message = str(caught.value)
    assert "step 3" in message and "loss_cls nan" in message and "image_5.jpg" in message
    assert ("image_4.jpg" in message) == (accumulate == 1)
    record = json.loads((tmp_path / "run" / "bad_batch_step3.json").read_text())
    assert [part["image_ids"] for part in record["parts"]] == ([[4, 5]] if accumulate == 1 else [[4], [5]])
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state["progress"]["step"] == 2 and all(t.isfinite().all() for t in state["model"].values())


def test_a_gradient_that_is_not_finite_stops_too(make_trainer):
    trainer = make_trainer()
    trainer.model.fc.weight.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(NonFiniteLoss, match="step 1: the gradient is not finite"):
        trainer.run()


def test_float16_that_always_overflows_is_an_error(make_trainer, monkeypatch):
    monkeypatch.setattr("detres.engine.precision._SMALLEST_SCALE", 2.0**14)
    trainer = make_trainer(precision="float16", log_every=4)
    trainer.model.fc.weight.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(NonFiniteLoss, match="set precision to bfloat16"):
        trainer.run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(make_trainer, tmp_path, number):
    trainer = make_trainer(steps=100)

    def press(*_):
        if trainer.progress.step == 4:
            os.kill(os.getpid(), number)

    trainer.model.fc.register_forward_hook(press)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        trainer.run()
    assert caught.value.exit_code == 128 + number and caught.value.checkpoint == tmp_path / "run" / "last.pt"
    assert "last.pt is written, --resume" in str(caught.value)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 5
    assert signal.getsignal(number) == before and trainer.loader.closed


def test_a_second_ctrl_c_stops_at_once(make_trainer, tmp_path):
    trainer = make_trainer(steps=100)

    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)

    trainer.model.conv.register_forward_hook(press)
    trainer.model.fc.register_forward_hook(press)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.run()
    assert not isinstance(caught.value, Interrupted) and not (tmp_path / "run" / "last.pt").exists()


def test_a_signal_cuts_an_evaluation_short_and_resume_makes_up_for_it(make_trainer, tmp_path):
    evaluated = []

    def evaluate(model):
        os.kill(os.getpid(), signal.SIGTERM)
        evaluated.append("never")

    with pytest.raises(Interrupted):
        make_trainer(eval_every=6, evaluate=evaluate).run()
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert not evaluated and state["progress"]["step"] == 6 and state["progress"]["evaluated_step"] == 0
    trainer = make_trainer(resume=True, eval_every=6, evaluate=lambda model: {"AP": 0.3})
    trainer.resume()
    assert trainer.run().best == 0.3
    assert load_checkpoint(tmp_path / "run" / "best.pt")["progress"]["best"] == 0.3


def test_a_failing_loader_or_evaluation_loses_no_step(make_trainer, tiny_loader, tmp_path):
    with pytest.raises(RuntimeError, match="a worker died"):
        make_trainer(loader=tiny_loader(fail=8), checkpoint_every=100).run()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 4

    def fail(model):
        raise OSError("no space for results")

    with pytest.raises(OSError, match="no space for results"):
        make_trainer(folder="other", eval_every=5, evaluate=fail).run()
    assert load_checkpoint(tmp_path / "other" / "last.pt")["progress"]["step"] == 5


def test_a_signal_need_not_wait_for_data(make_trainer, tiny_loader, tmp_path):
    class Hanging(tiny_loader):
        def batch(self, start):
            if start == 8:
                os.kill(os.getpid(), signal.SIGTERM)
                pytest.fail("the signal came late")
            return super().batch(start)

    with pytest.raises(Interrupted) as caught:
        make_trainer(loader=Hanging()).run()
    assert caught.value.exit_code == 143
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 4


def test_a_scheduler_that_ends_the_workers_too_sees_its_own_exit_code(make_trainer, tiny_loader, monkeypatch):
    monkeypatch.setattr("detres.engine.interruption.sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as caught:
        make_trainer(loader=tiny_loader(fail=8)).run()
    assert caught.value.exit_code == 143


def test_a_damaged_last_checkpoint_costs_the_steps_since_the_one_before(make_trainer, tmp_path):
    whole = make_trainer(folder="whole", checkpoint_every=2, keep_checkpoints=2)
    whole.run()
    make_trainer(checkpoint_every=2, keep_checkpoints=2).run()
    data = bytearray((tmp_path / "run" / "last.pt").read_bytes())
    weight = load_checkpoint(tmp_path / "run" / "last.pt")["model"]["fc.weight"].numpy().tobytes()
    data[data.index(weight)] ^= 1
    (tmp_path / "run" / "last.pt").write_bytes(data)  # step_00000006.pt is the same file
    again = make_trainer(resume=True, checkpoint_every=2, keep_checkpoints=2)
    with pytest.warns(UserWarning, match=r"last\.pt is damaged.*Going on from step_00000004\.pt, step 4"):
        assert again.resume() == 4
    again.run()
    _assert_equal(_weights(whole), _weights(again))
    assert (tmp_path / "run" / "last.pt.damaged").exists()


def test_means_of_a_log_line_include_the_steps_before_the_interruption(make_trainer, tmp_path):
    make_trainer(folder="whole", log_every=6).run()
    first = make_trainer(folder="cut", log_every=6)
    advance = first.reporter.advance
    first.reporter.advance = lambda step: (advance(step), step == 4 and os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        first.run()
    second = make_trainer(folder="cut", resume=True, log_every=6)
    second.resume()
    second.run()
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    values = [[(row["step"], row["loss"], row["grad_norm"]) for row in run] for run in rows]
    assert values[0] == values[1] and len(values[0]) == 2


def test_killed_between_an_evaluation_and_its_checkpoint(make_trainer, tmp_path, monkeypatch):
    """On resuming, the evaluation's line is not written twice, and best.pt is of the best step."""
    values = {"whole": iter([0.2, 0.6, 0.4]), "run": iter([0.2, 0.6, 0.6, 0.4])}

    def trainer(folder, **options):
        return make_trainer(folder=folder, eval_every=2, evaluate=lambda _: {"AP": next(values[folder])}, **options)

    trainer("whole").run()

    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    first = trainer("run")
    first.reporter.message = lambda text: "step 4" in text and kill()
    with pytest.raises(Killed):
        first.run()
    second = trainer("run", resume=True)
    second.resume()
    monkeypatch.setattr("detres.engine.run_directory.RunDirectory.share_last", kill)
    with pytest.raises(Killed):
        second.run()
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "run" / "best.pt")["progress"]["step"] == 2
    third = trainer("run", resume=True)
    third.resume()
    third.run()
    assert load_checkpoint(tmp_path / "run" / "best.pt")["progress"]["step"] == 4
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "run")]
    seen = [[(row["kind"], row["step"], row.get("AP")) for row in run] for run in rows]
    assert seen[0] == seen[1]


def test_a_clock_that_jumps_back_changes_no_figure(make_trainer, monkeypatch):
    times = iter(range(10**9, 0, -86_400))
    monkeypatch.setattr("time.time", lambda: float(next(times)))
    trainer = make_trainer(log_every=1, eval_every=3, evaluate=lambda model: {"AP": 0.5})
    assert trainer.run().seconds > 0
    for _, values in trainer.reporter.logs:
        assert values["images_per_second"] > 0
        assert all(0 <= values[name] < 3600 for name in ("seconds_per_step", "loading_share", "eta_seconds"))


def test_skipped_images_are_reported_and_counted(make_trainer):
    trainer = make_trainer(steps=30)
    assert trainer.run().skipped_images == 10
    assert trainer.reporter.messages[:5] == ["skipped: broken.jpg: truncated"] * 5
    assert trainer.reporter.messages[5].startswith("further skipped images are only counted")
    assert trainer.reporter.logs[-1][1]["skipped_images"] == 10


def test_a_full_disk_leaves_the_previous_checkpoint_whole(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(checkpoint_every=2)
    save = torch.save

    def full(state, file):
        if state["progress"]["step"] >= 4:
            file.write(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left on device .*previous one is untouched.*last.pt"):
        trainer.run()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 2
    assert not list(Path(tmp_path / "run").glob(".*"))
    assert trainer.progress.step == 6, "it goes on without the one of step 4; the last one must be written"


def test_compile_wraps_the_model_and_leaves_its_names(make_trainer, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda model: lambda *args: calls.append(1) or model(*args))
    make_trainer(compile=True).run()
    assert len(calls) == 6 and "conv.weight" in load_checkpoint(tmp_path / "run" / "last.pt")["model"]


def test_a_header_that_no_checkpoint_can_hold_is_refused_before_training(make_trainer, header, tmp_path):
    trainer = make_trainer()
    header["config"] = {"output": Path("runs")}
    with pytest.raises(TypeError, match=r"header\['config'\]\['output'\] is a PosixPath"):
        type(trainer)(trainer.model, trainer.optimizer, trainer.schedule, trainer.loader, trainer.run_directory,
                      trainer.settings, header=header)  # fmt: skip
