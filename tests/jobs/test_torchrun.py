"""torchrun itself: workers that die and are started again, and two hosts that find each other."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from detres.engine.checkpoint import load_checkpoint
from tests.jobs.conftest import Workshop
from tests.together import free_port

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_LIMIT = 600.0  # seconds for a whole torchrun, on a machine that has other work too
_SETTINGS = [
    *("model.backbone.norm=frozen_batch", "model.backbone.weights=null", "train.steps=6", "train.checkpoint_every=2"),
    *("train.eval_every=6", "train.val_loss=false"),
]


def _torchrun(options: Sequence[str], workshop: Workshop, folder: Path, prefix: Sequence[str] = ()) -> list[str]:
    tool = [str(_ROOT / "tools" / "train_net.py"), "--config", str(workshop.config), f"output={folder}", *_SETTINGS]
    return [*prefix, sys.executable, "-m", "torch.distributed.run", *options, *tool]


@contextmanager
def _started(
    command: Sequence[str], workshop: Workshop, log: Path, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, which is killed at the end, however it ends."""
    environment = {
        **os.environ, "DETRES_DATASETS": str(workshop.data), "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1",
        **variables,
    }  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            yield process
        finally:
            for pid in (process.pid, *_descendants(process.pid)):  # torchrun first: it would start the others again
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(path.parent.name)
            found |= {child, *_descendants(child)}
    return found


def _worker(agent: int, rank: int) -> int | None:
    """The process of that rank below torchrun."""
    for pid in _descendants(agent):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RANK={rank}".encode() in variables:
            return pid
    return None


def _wait_for(condition, process: subprocess.Popen[str], log: Path):  # type: ignore[no-untyped-def]
    end = time.monotonic() + _LIMIT
    while not (found := condition()):
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def uninterrupted(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights that two processes end with when nothing happens."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    command, log = _torchrun(["--standalone", "--nproc-per-node", "2"], workshop, folder / "run"), folder / "log"
    with _started(command, workshop, log) as process:
        assert process.wait(_LIMIT) == 0, log.read_text()
    return dict(load_checkpoint(folder / "run" / "last.pt")["model"])


def test_a_killed_worker_is_started_again_and_the_run_ends_as_an_uninterrupted_one(
    workshop: Workshop, tmp_path: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    run, log = tmp_path / "killed", tmp_path / "killed.log"
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    with _started(_torchrun(options, workshop, run), workshop, log) as process:
        _wait_for(lambda: list(run.glob("step_*.pt")), process, log)
        os.kill(_wait_for(lambda: _worker(process.pid, 1), process, log), signal.SIGKILL)
        assert process.wait(_LIMIT) == 0, log.read_text()
    starts = [start["from_step"] for start in json.loads((run / "environment.json").read_text())]
    assert starts[0] == 0 and len(starts) == 2 and starts[1] >= 2, log.read_text()
    found = load_checkpoint(run / "last.pt")["model"]
    assert all(torch.equal(tensor, found[name]) for name, tensor in uninterrupted.items())
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(steps)) == [1, 2, 3, 4, 5, 6]


def test_a_folder_that_was_refused_stays_refused_when_torchrun_tries_again(workshop: Workshop, tmp_path: Path) -> None:
    before = (workshop.runs / "tiny" / "last.pt").read_bytes()
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    log = tmp_path / "log"
    with _started(_torchrun(options, workshop, workshop.runs / "tiny"), workshop, log) as process:
        assert process.wait(_LIMIT) != 0
    assert log.read_text().count("holds another run") >= 2, log.read_text()
    assert (workshop.runs / "tiny" / "last.pt").read_bytes() == before


@contextmanager
def _two_hosts(names: tuple[str, str], addresses: tuple[str, str]) -> Iterator[None]:
    """Two network namespaces joined by a cable; skipped where the system does not permit them."""
    first, second = names
    ends = (f"{first[-6:]}e", f"{second[-6:]}e")
    commands = [
        *(["ip", "netns", "add", name] for name in names),
        ["ip", "link", "add", ends[0], "netns", first, "type", "veth", "peer", "name", ends[1], "netns", second],
        *(
            ["ip", "-n", name, *rest]
            for name, end, address in zip(names, ends, addresses, strict=True)
            for rest in (
                ["addr", "add", f"{address}/24", "dev", end],
                ["link", "set", end, "up"],
                ["link", "set", "lo", "up"],
            )
        ),
    ]
    try:
        for command in commands:
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            except FileNotFoundError:
                pytest.skip("needs the command ip (iproute2)")
            if done.returncode != 0:
                pytest.skip(f"network namespaces are not permitted here: {' '.join(command)}: {done.stderr.strip()}")
        yield
    finally:
        for name in names:
            try:
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20, check=False)
            except FileNotFoundError:
                break


def test_two_hosts_train_together(workshop: Workshop, tmp_path: Path, uninterrupted: dict[str, torch.Tensor]) -> None:
    names = (f"detres{os.getpid()}a", f"detres{os.getpid()}b")
    addresses = ("10.77.13.1", "10.77.13.2")
    run, port = tmp_path / "hosts", free_port()
    options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "hosts"]
    with _two_hosts(names, addresses):
        logs = [tmp_path / "a.log", tmp_path / "b.log"]
        commands = [
            _torchrun(
                [*options, "--rdzv-endpoint", f"{addresses[0]}:{port}", "--local-addr", address,
                 "--rdzv-conf", f"is_host={int(address == addresses[0])}"],  # both have the same host name here
                workshop, folder, ["ip", "netns", "exec", name],
            )
            for name, address, folder in zip(names, addresses, (run, tmp_path / "elsewhere"), strict=True)
        ]  # fmt: skip
        interfaces = [{"GLOO_SOCKET_IFNAME": f"{name[-6:]}e"} for name in names]
        with (
            _started(commands[0], workshop, logs[0], **interfaces[0]) as first,
            _started(commands[1], workshop, logs[1], **interfaces[1]) as second,
        ):
            assert first.wait(_LIMIT) == 0, logs[0].read_text() + logs[1].read_text()
            assert second.wait(_LIMIT) == 0, logs[1].read_text()
    # rank 0 may be on either host; the other one wrote nothing
    (written,) = [folder for folder in (run, tmp_path / "elsewhere") if folder.exists()]
    assert json.loads((written / "environment.json").read_text())[0]["processes"] == 2
    found = load_checkpoint(written / "last.pt")["model"]
    assert all(torch.equal(tensor, found[name]) for name, tensor in uninterrupted.items())
