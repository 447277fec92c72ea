"""`detres doctor`: what is wrong with the data."""

import argparse

from detres.cli.shared import ProgressLine, add_config, print_paths, say


def add_doctor(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--output", help="folder for doctor.html and doctor.json; default: runs/doctor_CONFIG")
    parser.add_argument("--fix", metavar="FOLDER", help="write cleaned copies of the annotations to a new folder")
    parser.add_argument("--workers", type=int, help="threads that read images; default: the processors, at most 8")


def doctor(arguments: argparse.Namespace) -> int:
    from detres.config import load_config
    from detres.files.plain_text import printable
    from detres.jobs.doctor import doctor

    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers: got {arguments.workers}, expected at least 1")
    loaded = load_config(arguments.config, arguments.overrides)
    shown = ProgressLine()
    options = {"output": arguments.output, "fix": arguments.fix, "workers": arguments.workers}
    try:
        diagnosis = doctor(loaded, **options, progress=shown.update)
    finally:
        shown.finish()
    say(f"{diagnosis.findings.table()}\n")
    for line in (*diagnosis.summary, *diagnosis.fixed):
        say(printable(line))
    print_paths(diagnosis.written)
    return int(diagnosis.findings.count("error") > 0)
