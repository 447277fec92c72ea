"""The fuzz run itself, a small share of it, and what it calls a failure."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from detres.data.annotations import DatasetError
from tests.fuzz.campaign import Job, examine, run
from tests.fuzz.readers import Reader, readers
from tests.fuzz.samples import images

NAMES = [reader.name for reader in readers()]


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """The folder that inputs are read in; it is the working folder, so that what runs would leave its trace there."""
    before, work = Path.cwd(), tmp_path / "only" / "work"
    work.mkdir(parents=True)
    (work / "input.jpg").write_bytes(images()[0])
    os.chdir(work)
    yield work
    os.chdir(before)


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_whole_files_are_accepted_and_empty_ones_are_not(reader: Reader, work: Path) -> None:
    outcomes = [examine(reader, sample, work) for sample in reader.samples]
    refused = [reason for outcome, reason in outcomes if outcome != "accepted"]
    assert len(outcomes) > len(refused) and all("asks for foreign code" in reason for reason in refused)
    assert examine(reader, b"", work)[0] == ("accepted" if reader.name in ("metrics", "doctor") else "refused")


def test_the_same_seed_makes_the_same_inputs() -> None:
    for one, other in zip(readers(), readers(), strict=True):
        assert [one.input(0, n) for n in range(3)] == [other.input(0, n) for n in range(3)]
        assert one.input(0, 1) != one.input(1, 1) or one.input(0, 2) != one.input(1, 2)


def test_what_counts_as_a_failure(work: Path) -> None:
    def outcome(action: object) -> str:
        return examine(Reader("x", ".x", [], lambda rng, content: content, action), b"", work)[0]  # type: ignore[arg-type]

    def refuse(path: Path) -> None:
        raise DatasetError(f"{path}: no")

    def refuse_namelessly(path: Path) -> None:
        raise DatasetError("no")

    def crash(path: Path) -> None:
        raise UnicodeError(str(path))

    assert [outcome(action) for action in (refuse, refuse_namelessly, crash)] == ["refused", "failed", "failed"]
    assert outcome(lambda path: path.with_name("ran").mkdir()) == "failed"
    (work / "ran").rmdir()
    assert outcome(lambda path: (work.parent / "escaped").touch()) == "failed"


def _jobs(count: int) -> list[Job]:
    return [(name, number) for name in NAMES for number in range(count // len(NAMES))]


def test_two_thousand_damaged_files() -> None:
    outcomes = run(_jobs(2000), seed=0)
    assert not outcomes.failures, f"{outcomes.failures[0]}\n{outcomes.table()}"
    assert sum(outcomes.counts.values()) == len(_jobs(2000))


@pytest.mark.slow
def test_twenty_thousand_damaged_files() -> None:
    """What `python -m tests.fuzz` does."""
    outcomes = run(_jobs(20_700), seed=0)
    assert not outcomes.failures, f"{outcomes.failures[0]}\n{outcomes.table()}"
