"""The run itself: a process of its own reads the damaged files, under limits, and is watched by this one."""

import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz.mutations import ESCAPED

SECONDS = 10  # of the processor, for one input
PATIENCE = 120.0  # seconds without a word after which the process is killed: it does not come back to Python
MEMORY = 1 << 30  # bytes that one input may add
ACCEPTED, REFUSED = "accepted", "refused"
_IMAGE = "input.jpg"  # the image that annotations speak of

Job = tuple[str, int]  # a reader and the number of its input


class TimeIsUp(BaseException):
    """No Exception, lest a reader takes it for damage to its file."""


class Failure(NamedTuple):
    """An input that brought a reader to something else than a value or a refusal in good order."""

    reader: str
    number: int
    reason: str


@dataclass
class Outcomes:
    """How often each reader accepted and refused, and what went wrong."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def table(self) -> str:
        """A line for each reader, and the sum."""
        names = list(dict.fromkeys(name for name, _ in self.counts))
        lines = [f"{'reader':14}{'inputs':>8}{ACCEPTED:>10}{REFUSED:>10}{'failed':>8}"]
        for name in names:
            accepted, refused, failed = (self.counts[name, kind] for kind in (ACCEPTED, REFUSED, "failed"))
            lines.append(f"{name:14}{accepted + refused + failed:>8}{accepted:>10}{refused:>10}{failed:>8}")
        sums = [sum(n for (_, kind), n in self.counts.items() if kind == k) for k in (ACCEPTED, REFUSED, "failed")]
        return "\n".join([*lines, f"{'all':14}{sum(sums):>8}{sums[0]:>10}{sums[1]:>10}{sums[2]:>8}"])


def run(jobs: Sequence[Job], seed: int) -> Outcomes:
    """Read the damaged files of all `jobs`; a process that dies or hangs is one failure, and the next takes over."""
    outcomes, start = Outcomes(), 0
    while start < len(jobs):
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(sender, list(jobs[start:]), seed), daemon=True)
        process.start()
        sender.close()
        for name, number, outcome, reason in _reports(receiver):
            start += 1
            outcomes.counts[name, outcome] += 1
            if outcome == "failed":
                outcomes.failures.append(Failure(name, number, reason))
        process.kill()
        process.join()
        if start < len(jobs):
            name, number = jobs[start]
            start += 1
            outcomes.counts[name, "failed"] += 1
            outcomes.failures.append(
                Failure(name, number, f"killed the process, or did not end (exit {process.exitcode})")
            )
    return outcomes


def _reports(receiver: Connection) -> Iterator[tuple[str, int, str, str]]:
    """What the process says, until it is done, dies, or says nothing for too long."""
    while receiver.poll(PATIENCE):
        try:
            yield receiver.recv()
        except EOFError:
            return


def _work(sender: Connection, jobs: list[Job], seed: int) -> None:
    from tests.fuzz.readers import readers

    known = {reader.name: reader for reader in readers()}
    with tempfile.TemporaryDirectory(prefix="detres-fuzz-") as folder:
        work = Path(folder) / "work"
        work.mkdir()
        os.chdir(work)
        (work / _IMAGE).write_bytes(_jpeg())
        _limit_memory()
        for name, number in jobs:
            outcome, reason = examine(known[name], known[name].input(seed, number), work)
            sender.send((name, number, outcome, reason))
        os.chdir("/")


def examine(reader: Any, content: bytes, work: Path) -> tuple[str, str]:
    """Let a reader read `content` in the folder `work`: accepted, refused or failed, and the reason of the last two."""
    path = work / f"input{reader.suffix}"
    path.write_bytes(content)
    before, peak = set(os.listdir(work)), _peak()
    try:
        with _time_limit():
            reader.read(path)
        outcome, reason = ACCEPTED, ""
    except BaseException as error:
        good = _in_good_order(error, path, reader.name)
        outcome, reason = (REFUSED, str(error)) if good else ("failed", traceback.format_exc())
    if (grown := _peak() - peak) > MEMORY // 2:
        outcome, reason = "failed", f"took {grown >> 20} MiB\n{reason}"
    if set(os.listdir(work)) != before or os.listdir(work.parent) != [work.name] or os.path.lexists(ESCAPED):
        outcome, reason = "failed", f"left something behind or ran something: {os.listdir(work)}\n{reason}"
    path.unlink()
    return outcome, reason


def _in_good_order(error: BaseException, path: Path, reader: str) -> bool:
    """Whether this is an error of detres's own (or a plain ValueError) that names the file."""
    own = type(error).__module__.startswith("detres.") or type(error) is ValueError
    return own and (
        reader in ("config", "override") or any(part in str(error) for part in (path.name, str(path.parent)))
    )


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeIsUp(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _limit_memory() -> None:
    """Beyond what is loaded by now, no more than MEMORY can be asked for."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, resource.RLIM_INFINITY))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _jpeg() -> bytes:
    from tests.fuzz.samples import images

    return images()[0]


def rates(started: float, count: int) -> str:
    """How long it took."""
    seconds = time.monotonic() - started
    return f"{count} inputs in {seconds:.0f} s"
