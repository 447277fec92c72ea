"""`detres <command>`: reads the arguments, calls the job, says what came of it. tools/*.py are doors into the same."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from detres import __version__
from detres.cli import exchange, health, judging, looking, training
from detres.cli.shared import process_place
from detres.files.plain_text import printable_lines

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `detres ...`; returns the exit code: 0, 1 for what the user can mend, 130 or 143 when interrupted."""
    parser = argparse.ArgumentParser(prog="detres", description="Faster R-CNN on ResNets: train, evaluate, predict.")
    parser.add_argument("--version", action="version", version=f"detres {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for name, (add_arguments, command, help_text) in _COMMANDS.items():
        added = commands.add_parser(name, help=help_text, description=help_text)
        add_arguments(added)
        added.set_defaults(command=command)
    arguments, rest = parser.parse_known_args(argv)
    if process_place()[1] > 1 and arguments.command not in _TOGETHER:
        parser.error("this command runs in one process: start it without torchrun (or unset WORLD_SIZE)")
    loose = getattr(arguments, "overrides", getattr(arguments, "sources", None))
    if any(text.startswith("-") for text in rest) or (rest and loose is None):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if loose is not None:  # argparse takes positional arguments from one place only; these may stand anywhere
        loose += rest
    return _guarded(arguments.command, arguments)


def run_tool(name: str) -> int:
    """The command `name` on its own, for tools/*.py."""
    return main([name, *sys.argv[1:]])


def _guarded(command: Command, arguments: argparse.Namespace) -> int:
    """Errors that describe themselves are printed without a traceback; DETRES_DEBUG=1 shows it.

    Memory is kept for the next step: DETRES_ALLOCATOR=default leaves the C library's allocator as it is.
    SIGTERM ends a command as Ctrl-C does, so that it tidies up; training puts its own handlers in place meanwhile.
    """
    from detres.engine.allocator import allocator_from_environment, use_allocator
    from detres.engine.interruption import Interruption

    interruption = Interruption()
    rank, _ = process_place()
    try:
        with (
            open(os.devnull, "w") as nowhere,
            interruption,
            interruption.at_once(),
            warnings.catch_warnings(),
            redirect_stdout(nowhere if rank else sys.stdout),
        ):
            warnings.showwarning = _show_warning
            use_allocator(allocator_from_environment())
            return command(arguments)
    except BrokenPipeError:  # whoever read our output has seen enough (`detres zoo | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError, ArithmeticError, RuntimeError, ImportError) as error:
        if os.environ.get("DETRES_DEBUG"):
            raise
        if rank == 0 or not getattr(error, "is_everywhere", False):
            print(printable_lines(f"{_speaker()}: error: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        if rank == 0:
            print(f"detres: {str(stopped) or 'interrupted'}", file=sys.stderr)
        return getattr(stopped, "exit_code", 130)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(printable_lines(f"{_speaker()}: warning: {message}"), file=sys.stderr)


def _speaker() -> str:
    """Whose message it is: the processes of a torchrun write to one screen."""
    rank, count = process_place()
    return "detres" if count == 1 else f"detres, process {rank} of {count}"


_COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Command, str]] = {
    "train": (training.add_train, training.train, "train a detector and report its mAP"),
    "pretrain": (training.add_train, training.pretrain, "train a classifier, for a detector to start from"),
    "find-lr": (training.add_find_lr, training.find_lr, "find the learning rate of a configuration"),
    "eval": (judging.add_eval, judging.evaluate, "evaluate weights or an existing results file"),
    "predict": (judging.add_predict, judging.predict, "detect in, or label, images, folders and videos"),
    "convert": (exchange.add_convert, exchange.convert, "bring weights from one toolkit's format into another's"),
    "zoo": (exchange.add_zoo, exchange.zoo, "list published weights, which every command takes as zoo:NAME"),
    "recompute-norms": (
        training.add_recompute_norms,
        training.recompute_norms,
        "recompute batch norm statistics",
    ),
    "benchmark": (
        looking.add_benchmark,
        looking.benchmark,
        "time detres against torchvision at the same work",
    ),
    "figure": (
        looking.add_figure,
        looking.figure,
        "draw the errors of runs, or the responses of layers",
    ),
    "architecture": (
        looking.add_architecture,
        looking.architecture,
        "print layers, sizes, parameters, multiply-adds",
    ),
    "doctor": (health.add_doctor, health.doctor, "check a data set and a configuration before training"),
    "config": (looking.add_config_command, looking.config, "show a resolved configuration"),
}

_TOGETHER = (training.train, training.pretrain, judging.evaluate)
"""The commands that torchrun may start several times over."""
