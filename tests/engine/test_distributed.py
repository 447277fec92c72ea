"""What several processes agree on, and how they fail together."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch
import torch.distributed as dist
from torch import nn

from detres.engine.checkpoint import load_checkpoint
from detres.engine.distributed import all_succeed, interleave, join_processes, launch_identity, meet, pad_alike
from detres.engine.environment import begun_by_this_launch, describe_environment
from detres.engine.follower import FollowerDirectory
from detres.engine.interruption import Interrupted
from detres.engine.validation import validation_losses
from detres.structures import Batch, ImageBatch
from detres.structures.processes import ALONE
from tests.engine.conftest import TinyLoader
from tests.together import done, joined, run_processes, run_together


class SharedLoader(TinyLoader):
    """The share of one process in the batches of a TinyLoader of `whole` images."""

    def __init__(self, processes, whole=4, **options):
        super().__init__(whole // processes.world_size, **options)
        self.whole, self.offset = whole, processes.rank * (whole // processes.world_size)

    def stream(self, start_sample):
        while True:
            first = start_sample + self.offset
            if self.fail is not None and first <= self.fail < first + self.size:
                raise RuntimeError("a worker died")
            yield self.batch(first)
            start_sample += self.whole


def test_alone(monkeypatch):
    for name in ("WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with join_processes(torch.device("cpu")) as (processes, device):
        assert processes is ALONE and device.type == "cpu"
    assert launch_identity() is None
    assert pad_alike(ALONE, []) == [] and interleave([[]]) == []
    assert all_succeed(ALONE, lambda: 3, str) == (3, ["3"])


def test_what_the_environment_lacks_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(ValueError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set: use torchrun"),
        join_processes(torch.device("cpu")),
    ):
        pass


@pytest.mark.parametrize(("name", "message"), [("cuda", "process 1 of this machine has no GPU"), ("cuda:0", "own GPU")])
def test_each_process_needs_a_gpu_of_its_own(monkeypatch, name, message):
    for variable in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=message), join_processes(torch.device(name)):
        pass


def test_after_a_restart_nobody_finds_those_who_were_there_before():
    store = dist.HashStore()
    addresses = [f"address/{rank}" for rank in range(3)]
    for late in (0, 2, 0):
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(meet, store, rank, 3) for rank in range(3) if rank != late]
            assert not wait(waiting, timeout=0.2).done, "one is still missing"
            waiting.insert(late, pool.submit(meet, store, late, 3))
            meeting = [future.result(timeout=60) for future in waiting]
        for rank, part in enumerate(meeting):
            assert not part.check(addresses[rank:]), "an address of those who were there before"
            part.set(addresses[rank], str(rank))
            assert part.check(addresses[: rank + 1])


def test_values_and_tensors_travel():
    def exchange(processes):
        own = torch.tensor([processes.rank, 10])
        told = processes.gather({"rank": processes.rank})
        made = processes.from_main(lambda: ("made by", processes.rank))
        both = all_succeed(processes, lambda: processes.rank, lambda rank: [rank, 10 + rank])
        return told, made, processes.sum(own).tolist(), processes.stack(own).tolist(), both, own.tolist()

    told = [{"rank": 0}, {"rank": 1}]
    notes = [[0, 10], [1, 11]]
    assert interleave(notes) == [0, 1, 10, 11]
    for rank, found in enumerate(run_together(2, exchange)):
        assert found == (told, ("made by", 0), [1, 20], [[0, 10], [1, 10]], (rank, notes), [rank, 10])


def test_shares_are_padded_alike():
    def shapes(processes):
        sizes = [(3, 8, 16), (3, 24, 8)] if processes.rank == 0 else [(3, 16, 8), (3, 8, 8)]
        images = [ImageBatch.from_images([torch.ones(size)], size_divisibility=8) for size in sizes]
        batches = pad_alike(processes, [Batch(image, torch.zeros(1), [0], ["a"]) for image in images])
        return [(tuple(b.images.pixels.shape[2:]), b.images.pixels.sum().item()) for b in batches]

    assert run_together(2, shapes) == [
        [((16, 16), 3 * 8 * 16.0), ((24, 8), 3 * 24 * 8.0)],
        [((16, 16), 3 * 16 * 8.0), ((24, 8), 3 * 8 * 8.0)],
    ]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_in_one_process_ends_all(failing):
    def fail(processes, everywhere):
        def work():
            if processes.rank == failing:
                raise ValueError("no such file: x.jpg")
            return 1

        return all_succeed(processes, work, str) if everywhere else processes.from_main(work)

    calls = [True] if failing else [True, False]
    for everywhere in calls:
        found = run_processes(2, lambda everywhere=everywhere: _with(fail, everywhere))
        assert found[failing] == ("failed", "ValueError: no such file: x.jpg")
        told = f"OtherProcessFailed: stopped, because process {failing} failed: no such file: x.jpg"
        assert found[1 - failing] == ("failed", told)


def _with(function, *arguments):
    with joined() as processes:
        return function(processes, *arguments)


def test_a_process_that_dies_does_not_hang_the_others():
    def die(processes):
        if processes.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        processes.gather(None)

    found = run_processes(2, lambda: _with(die))
    assert found[1] == ("ended", -signal.SIGKILL) and found[0][0] == "failed", found


def _train(processes, make_trainer, folder, *, stop_at=None, **options):
    """Train in this process; its weights and summary, or the text of the error that ended it."""
    trainer = _trainer(processes, make_trainer, folder, **options)
    advance = trainer.reporter.advance
    if stop_at is not None and processes.rank == 1:
        trainer.reporter.advance = lambda step: (advance(step), step == stop_at and os.kill(os.getpid(), 15))
    error = None
    try:
        trainer.run()
    except (ArithmeticError, RuntimeError, Interrupted) as ended:
        error = f"{type(ended).__name__}: {ended}"
    return dict(trainer.model.state_dict()), trainer.progress.step, trainer.progress.samples, error


def _trainer(processes, make_trainer, folder, **options):
    options = {"loader": SharedLoader(processes, **options.pop("data", {})), **options}
    return make_trainer(folder=folder, processes=processes, **options)


def test_processes_end_with_the_same_weights_and_the_main_one_writes(make_trainer, tmp_path):
    options = {"ema_decay": 0.9, "clip_grad_norm": 0.5, "eval_every": 3, "evaluate": lambda model: {"AP": 0.5}}
    first, second = run_together(2, lambda processes: _train(processes, make_trainer, "run", **options))
    assert first[1:] == second[1:] == (6, 24, None)
    for name, tensor in first[0].items():
        assert torch.equal(tensor, second[0][name]), name
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state["progress"]["samples"] == 24 and state["progress"]["skipped_images"] == 4
    assert torch.equal(state["model"]["fc.weight"], first[0]["fc.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_signal_to_one_process_stops_all_after_the_same_step(make_trainer, tmp_path):
    found = run_together(2, lambda processes: _train(processes, make_trainer, "run", stop_at=2))
    assert [each[1] for each in found] == [2, 2]
    assert all("Interrupted: stopped by SIGTERM" in each[3] for each in found)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 2


def test_a_loss_that_is_not_finite_in_one_process_stops_all_and_names_its_images(make_trainer, tmp_path):
    found = run_together(2, lambda processes: _train(processes, make_trainer, "run", data={"poison": 7}))
    assert [each[1] for each in found] == [1, 1]
    assert found[1][3] == f"OtherProcessFailed: stopped, because process 0 failed: {found[0][3].partition(': ')[2]}"
    assert "NonFiniteLoss: step 2: the loss is not finite" in found[0][3] and "image_0.jpg, image_1.jpg" in found[0][3]
    record = json.loads((tmp_path / "run" / "bad_batch_step2.json").read_text())
    assert [part["image_ids"] for part in record["parts"]] == [[4, 5], [0, 1]]


def test_processes_recover_together_from_a_loss_that_is_not_finite(make_trainer):
    options = {"data": {"poison": 7}, "steps": 4, "max_recoveries": 1, "recovery_lr_factor": 0.5, "checkpoint_every": 1}
    first, second = run_together(2, lambda processes: _train(processes, make_trainer, "run", **options))
    assert first[1:] == second[1:] == (4, 20, None), "one batch of four images was passed over"
    assert all(torch.equal(tensor, second[0][name]) for name, tensor in first[0].items())


def test_a_loader_that_fails_in_one_process_stops_all_with_a_checkpoint(make_trainer, tmp_path):
    found = run_together(2, lambda processes: _train(processes, make_trainer, "run", data={"fail": 10}))
    assert found[1][3] == "RuntimeError: a worker died"
    assert found[0][3] == "OtherProcessFailed: stopped, because process 1 failed: a worker died"
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 2


def test_an_error_in_one_forward_pass_does_not_hang_the_others(make_trainer):
    def train(processes):
        trainer = _trainer(processes, make_trainer, "run")
        if processes.rank == 1:
            trainer.model.drop = nn.Linear(1, 1)
        return trainer.run()

    found = run_processes(2, lambda: _with(train))
    assert [kind for kind, _ in found] == ["failed", "failed"]
    assert "mat1 and mat2 shapes" in found[1][1]


def test_only_the_main_process_needs_to_see_the_checkpoint(make_trainer, tmp_path):
    run_together(2, lambda processes: _train(processes, make_trainer, "run", steps=2))

    def resume(processes):
        trainer = _trainer(processes, make_trainer, "run", resume=True, steps=2)
        trainer.run_directory.last = trainer.run_directory.last if processes.rank == 0 else tmp_path / "nowhere.pt"
        return trainer.resume(), dict(trainer.model.state_dict())

    (step, first), (other, second) = run_together(2, resume)
    assert step == other == 2 and all(torch.equal(first[name], second[name]) for name in first)


def test_a_signal_to_any_process_ends_an_evaluation_in_all(make_trainer, tmp_path):
    cases = [
        *((moment, who) for moment in ("before", "between", "after") for who in ((0,), (1,), (0, 1))),
        ("making", (0,)),
    ]

    def train(processes, folder, moment, who):
        def at(place):
            if place == moment and processes.rank in who:
                os.kill(os.getpid(), signal.SIGTERM)

        def evaluate(model):
            at("before")
            processes.gather(processes.rank)
            at("between")
            processes.from_main(lambda: at("making"))
            at("after")
            return {"AP": 0.5}

        trainer = _trainer(processes, make_trainer, folder, eval_every=2, evaluate=evaluate)
        with pytest.raises(Interrupted) as caught:
            trainer.run()
        processes.gather("nobody is out of step")
        return caught.value.exit_code, trainer.progress.step, trainer.progress.evaluated_step

    def train_all(processes):
        return [train(processes, f"run{number}", *case) for number, case in enumerate(cases)]

    ends = run_together(2, train_all)
    assert ends == [[(143, 2, 0)] * len(cases)] * 2
    assert load_checkpoint(tmp_path / "run0" / "last.pt")["progress"]["step"] == 2


def test_validation_losses_are_those_of_one_process_to_the_last_bit(tiny_model):
    batches = [TinyLoader(size).batch(start) for size, start in ((3, 0), (1, 3), (2, 4), (3, 1), (2, 2))]
    batches = [Batch(b.images, b.targets, b.image_ids, b.files) for b in batches]
    alone = validation_losses(tiny_model, batches, device="cpu")

    def share(processes):
        own = batches[:2] if processes.rank == 0 else batches[2:]
        return validation_losses(tiny_model, own, device="cpu", processes=processes)

    assert run_together(2, share) == [alone, alone] and alone["loss"] > 0


def test_a_restart_of_torchrun_is_known_by_torchrun_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert not begun_by_this_launch(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps([describe_environment()]))
    assert begun_by_this_launch(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another job")
    assert not begun_by_this_launch(tmp_path)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert not begun_by_this_launch(tmp_path), "a run begun without torchrun is nobody's to go on with"


def test_a_follower_writes_nothing(tmp_path):
    run = FollowerDirectory(tmp_path / "run")
    run.write_config("x")
    run.write_environment()
    run.start_log()
    run.log("train", 1, {"loss": 1.0})
    run.save({"model": {}}, is_best=True, number=1)
    assert run.write_json("a.json", {}) == tmp_path / "run" / "a.json"
    run.close()
    run.discard_if_empty()
    assert not run.path.exists() and run.numbered() == [] and done([]) == []
