"""What several commands say and ask alike."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from detres.files.plain_text import printable, printable_lines


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--config and the settings to change."""
    parser.add_argument("--config", required=required, help="a YAML file, or the name of a shipped one: coco_r50.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change: train.batch_size=8")


def process_place() -> tuple[int, int]:
    """Which of torchrun's processes this is, and how many there are: (0, 1) without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ.get("RANK", "0")), count) if count > 1 else (0, 1)


def say(text: str) -> None:
    """Print lines for a person; names in them may come from anywhere."""
    print(printable_lines(text))


def print_paths(paths: Sequence[Path]) -> None:
    """The files that were written, one a line."""
    for path in paths:
        say(printable(f"  {path}"))


class ProgressLine:
    """Files done: one line that is written over on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._last = 0.0

    def update(self, done: int, total: int | None, name: str) -> None:
        """Say how far it is."""
        now = time.monotonic()
        if now - self._last < (0.1 if self._on_terminal else 10.0):
            return
        self._last = now
        text = printable(name if total is None and not done else f"{done}/{'?' if total is None else total} {name}")
        print(f"\r\x1b[K{text}" if self._on_terminal else text, end="" if self._on_terminal else "\n", file=sys.stderr)

    def finish(self) -> None:
        """Clear the line."""
        if self._on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr)
