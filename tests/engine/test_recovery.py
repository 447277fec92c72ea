"""After a loss that is not finite: back to a checkpoint, without the batch, with a lower rate, some times only."""

import os
import signal
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import torch

from detres.engine import metrics_log
from detres.engine.checkpoint import load_checkpoint
from detres.engine.interruption import Interrupted
from detres.engine.loss_monitor import NonFiniteLoss
from detres.engine.metrics_log import read_metrics
from detres.engine.records import Progress, TrainerSettings
from detres.engine.recovery import after_bad_batch
from detres.files.atomic_file import write_text_atomically

RECOVER: dict[str, Any] = {"max_recoveries": 2, "recovery_lr_factor": 0.5, "checkpoint_every": 2, "keep_checkpoints": 2}


def _rows(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (row["step"], row["loss"], row["lr"], row.get("recoveries")) for row in read_metrics(folder / "metrics.jsonl")
    ]


def _same(first: Any, second: Any) -> None:
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def _stop_at(trainer: Any, step: int) -> None:
    advance = trainer.reporter.advance
    trainer.reporter.advance = lambda at: (advance(at), at == step and os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        trainer.run()


def test_without_the_option_the_error_stays() -> None:
    error = NonFiniteLoss("step 3", 4)
    with pytest.raises(NonFiniteLoss) as caught:
        after_bad_batch(error, Progress(), TrainerSettings(steps=1), [])
    assert caught.value is error


def test_no_batch_to_blame_and_no_checkpoint_to_go_back_to() -> None:
    settings = TrainerSettings(steps=1, **RECOVER)
    blameless = NonFiniteLoss("float16 overflows at any scale")
    with pytest.raises(NonFiniteLoss) as caught:
        after_bad_batch(blameless, Progress(), settings, [])
    assert caught.value is blameless
    with pytest.raises(NonFiniteLoss, match=r"no whole step_\*\.pt"):
        after_bad_batch(NonFiniteLoss("step 3", 4), Progress(), settings, [])


def test_a_recovered_run_is_one_without_the_batch_and_at_half_the_rate_from_the_checkpoint(
    make_trainer: Any, tiny_loader: Any, tmp_path: Path
) -> None:
    class Without(tiny_loader):  # type: ignore[misc]
        """The same stream, samples 6 and 7 left out."""

        def batch(self, start: int) -> Any:
            return super().batch(start if start < 6 else start + 2)

    trainer = make_trainer(loader=tiny_loader(poison=7), log_every=1, ema_decay=0.9, **RECOVER)
    summary = trainer.run()
    _stop_at(make_trainer(folder="reference", loader=Without(), log_every=1, ema_decay=0.9), 2)
    halved = {"type": "sgd", "lr": 0.05, "weight_decay": 1e-4}
    reference = make_trainer(
        folder="reference", resume=True, loader=Without(), log_every=1, ema_decay=0.9, optimizer=halved
    )
    reference.resume()
    reference.run()
    _same(reference.model, trainer.model)
    _same(reference.ema.module, trainer.ema.module)
    assert (summary.steps, summary.samples, trainer.progress.recovered) == (6, 14, (6,))
    rows = _rows(tmp_path / "run")
    assert [row[:3] for row in rows] == [row[:3] for row in _rows(tmp_path / "reference")]
    assert [row[3] for row in rows] == [None, None, 1, 1, 1, 1]
    (told,) = [text for text in trainer.reporter.messages if "recovery" in text]
    assert "step 4: the loss is not finite" in told and "image_1.jpg" in told
    assert "recovery 1 of at most 2: back to step_00000002.pt, without that batch" in told and "on 0.5 times" in told
    assert (tmp_path / "run" / "bad_batch_step4.json").exists()
    assert trainer.reporter.messages[-1] == "given up in all: 1 batches whose loss was not finite"


@pytest.mark.parametrize("rows_fit_again", [False, True])
def test_a_recovery_on_a_full_disk_goes_on_with_its_lines_in_memory(
    make_trainer: Any, tiny_loader: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows_fit_again: bool
) -> None:
    class Lines(FileIO):
        """A file of lines on a disk that takes none while it is full."""

        def write(self, content: Any) -> int:
            _refuse_if(full)
            return super().write(content)

    def rewrite(path: Path, text: str) -> None:
        _refuse_if(full)
        write_text_atomically(path, text)

    full: list[int] = []
    monkeypatch.setattr(metrics_log, "FileIO", Lines)
    monkeypatch.setattr(metrics_log, "write_text_atomically", rewrite)
    expected = make_trainer(folder="expected", loader=tiny_loader(poison=7), log_every=1, **RECOVER)
    expected.run()
    trainer = make_trainer(loader=tiny_loader(poison=7), log_every=1, **RECOVER)
    path, advance = trainer.run_directory.path / "metrics.jsonl", trainer.reporter.advance

    def at(step: int) -> None:
        advance(step)
        if step == 2 and not trainer.progress.recovered:
            full.append(step)  # from the line of step 2 on, through the recovery in step 4
        if step == 5 and rows_fit_again:
            full.clear()

    trainer.reporter.advance = at
    with pytest.warns(UserWarning, match=r"cannot write .*metrics\.jsonl: .*No space.*its lines wait"):
        trainer.run()
    assert any("step 4: the loss is not finite" in text for text in trainer.reporter.messages)
    _same(expected.model, trainer.model)
    if rows_fit_again:
        assert _rows(tmp_path / "run") == _rows(tmp_path / "expected")
    else:  # what had been written before, and no half of a file
        assert [row["step"] for row in read_metrics(path)] == [1]


def _refuse_if(full: list[int]) -> None:
    if full:
        raise OSError(28, "No space left on device")


def test_a_bad_first_batch_goes_back_to_the_initial_weights(make_trainer: Any, tiny_loader: Any) -> None:
    trainer = make_trainer(loader=tiny_loader(poison=0), **RECOVER)
    assert trainer.run().samples == 14
    assert any("back to step_00000000.pt" in text for text in trainer.reporter.messages)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5])
@pytest.mark.parametrize("poison", [1, 7])
def test_interrupted_before_or_after_the_recovery_the_run_ends_the_same(
    make_trainer: Any, tiny_loader: Any, tmp_path: Path, stop_at: int, poison: int
) -> None:
    options = {**RECOVER, "ema_decay": 0.9, "log_every": 3, "eval_every": 3, "evaluate": lambda model: {"AP": 0.5}}
    whole = make_trainer(folder="whole", loader=tiny_loader(poison=poison), **options)
    whole.run()
    _stop_at(make_trainer(folder="cut", loader=tiny_loader(poison=poison), **options), stop_at)
    second = make_trainer(folder="cut", resume=True, loader=tiny_loader(poison=poison), **options)
    assert second.resume() == stop_at
    second.run()
    _same(whole.model, second.model)
    _same(whole.ema.module, second.ema.module)
    files = [load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut")]
    assert {**files[0]["progress"], "seconds": 0} == {**files[1]["progress"], "seconds": 0}
    kept = [
        [{k: v for k, v in row.items() if "second" not in k and k != "loading_share"} for row in read_metrics(path)]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "cut" / "metrics.jsonl")
    ]
    assert kept[0] == kept[1]


def test_it_cannot_go_on_for_ever(make_trainer: Any, tiny_loader: Any, tmp_path: Path) -> None:
    class Poisoned(tiny_loader):  # type: ignore[misc]
        """Every batch from sample 8 on is bad."""

        def batch(self, start: int) -> Any:
            batch = super().batch(start)
            batch.images.pixels.mul_(float("nan") if start >= 8 else 1.0)
            return batch

    trainer = make_trainer(loader=Poisoned(), steps=50, **RECOVER)
    with pytest.raises(NonFiniteLoss, match=r"step 5: .*all 2 recoveries of train.on_nonfinite are used up"):
        trainer.run()
    assert sum("recovery" in text for text in trainer.reporter.messages) == 2
    again = make_trainer(loader=Poisoned(), steps=50, resume=True, **RECOVER)
    again.resume()
    with pytest.raises(NonFiniteLoss, match="are used up"):
        again.run()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["recovered"] == (8, 10)


def test_a_damaged_checkpoint_is_passed_over(make_trainer: Any, tiny_loader: Any, tmp_path: Path) -> None:
    class Harming(tiny_loader):  # type: ignore[misc]
        """With the bad batch comes damage to the newest checkpoint."""

        def batch(self, start: int) -> Any:
            if start == 8:
                (tmp_path / "run" / "step_00000004.pt").write_bytes(b"")
            return super().batch(start)

    trainer = make_trainer(loader=Harming(poison=9), **RECOVER)
    with pytest.warns(UserWarning, match=r"step_00000004\.pt.*looking for an older one"):
        trainer.run()
    assert any("back to step_00000002.pt" in text for text in trainer.reporter.messages)
