"""What several commands say and ask alike."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--config and the settings to change."""
    parser.add_argument("--config", required=required, help="a YAML file, or the name of a shipped one: coco_r50.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change: train.batch_size=8")


def print_paths(paths: Sequence[Path]) -> None:
    """The files that were written, one a line."""
    for path in paths:
        print(f"  {path}")
