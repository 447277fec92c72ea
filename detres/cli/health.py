"""`detres doctor`: what is wrong with the data."""

import argparse
import shutil
import sys

from detres.cli.shared import ProgressLine, add_config, print_paths, say


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "exit code: 0 when nothing worse than warnings was found; 1 when a check ended in an error, whether or not "
        "--fix mends it, when the cleaned copy could not be written, or when the doctor could not run; 2 for "
        "arguments that do not exist"
    )
    add_config(parser)
    parser.add_argument("--output", help="folder for doctor.html and doctor.json; default: runs/doctor_CONFIG")
    parser.add_argument(
        "--fix",
        metavar="FOLDER",
        help="write cleaned copies of the annotations to a new folder; the data themselves are never changed",
    )
    parser.add_argument("--workers", type=int, help="threads that read images; default: the processors, at most 8")


def doctor(arguments: argparse.Namespace) -> int:
    from detres.config import load_config
    from detres.files.plain_text import printable
    from detres.jobs.doctor import doctor
    from detres.jobs.doctor.report import format_findings

    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers: got {arguments.workers}, expected at least 1")
    if any(text.startswith("output=") for text in arguments.overrides):
        raise ValueError("output: that is where training writes to; the doctor's folder is given by --output FOLDER")
    loaded = load_config(arguments.config, arguments.overrides)
    shown = ProgressLine()
    options = {"output": arguments.output, "fix": arguments.fix, "workers": arguments.workers}
    try:
        diagnosis = doctor(loaded, **options, progress=shown.update)
    finally:
        shown.finish()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    say(f"{format_findings(diagnosis.findings, width)}\n")
    for line in (*diagnosis.summary, *diagnosis.fixed):
        say(printable(line))
    print_paths(diagnosis.written)
    return int(diagnosis.findings.count("error") > 0 or not diagnosis.is_fixed)
