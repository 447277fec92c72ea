"""`python -m tests.fuzz`: damaged files for every reader, counts by outcome, exit code 1 if any went wrong."""

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.campaign import Failure, rates, run
from tests.fuzz.readers import readers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_700, help="in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default %(default)s)")
    parser.add_argument("--reader", action="append", help="only this one; may be given several times")
    parser.add_argument("--number", type=int, help="only the input of this number, for instance one that failed")
    parser.add_argument("--save", type=Path, default=Path("runs/fuzz"), help="folder for inputs that fail")
    arguments = parser.parse_args()
    known = {reader.name: reader for reader in readers()}
    names = arguments.reader or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"no reader {', '.join(unknown)}; there are {', '.join(known)}")
    each = -(-arguments.inputs // len(names))
    numbers = range(each) if arguments.number is None else [arguments.number]
    started = time.monotonic()
    jobs = [(name, number) for name in names for number in numbers]
    outcomes = run(jobs, arguments.seed)
    for failure in outcomes.failures:
        content = known[failure.reader].input(arguments.seed, failure.number)
        print(_told(failure, content, arguments.seed, known[failure.reader].suffix, arguments.save), flush=True)
    print(f"{outcomes.table()}\nseed {arguments.seed}, {rates(started, len(jobs))}")
    return 1 if outcomes.failures else 0


def _told(failure: Failure, content: bytes, seed: int, suffix: str, folder: Path) -> str:
    """Saves the input; what failed, where the input is, and how to see it again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{failure.reader}-{seed}-{failure.number}{suffix}"
    path.write_bytes(content)
    again = f"python -m tests.fuzz --seed {seed} --reader {failure.reader} --number {failure.number}"
    reason = "\n".join(line[:200] for line in failure.reason.splitlines()[-20:])
    return f"FAILED {failure.reader} {failure.number}: {reason}\n  saved as {path}; again: {again}\n"


if __name__ == "__main__":
    sys.exit(main())
