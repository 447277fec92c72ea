"""`detres train`, `detres pretrain`, `detres recompute-norms`: what ends in a checkpoint."""

import argparse
from pathlib import Path

from detres.cli.shared import add_config, print_paths


def add_train(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="go on from last.pt of the run directory")


def train(arguments: argparse.Namespace) -> int:
    return _run_training(arguments, "detector")


def pretrain(arguments: argparse.Namespace) -> int:
    return _run_training(arguments, "classifier")


def _run_training(arguments: argparse.Namespace, kind: str) -> int:
    from detres.config import load_config

    loaded = load_config(arguments.config, arguments.overrides)
    if (loaded.config.model.type == "classifier") != (kind == "classifier"):
        other = "train_net.py (detres train)" if kind == "classifier" else "pretrain.py (detres pretrain)"
        raise ValueError(f"{arguments.config}: model.type is {loaded.config.model.type}; use tools/{other} for it")
    from detres.jobs.train import train

    result = train(loaded, resume=arguments.resume)
    summary = result.summary
    print(f"\n{result.evaluation.metrics.table()}\n")
    print(f"trained {summary.steps} steps in {summary.seconds:.0f} s; the table is of the best weights")
    print_paths([summary.best_checkpoint or summary.last_checkpoint, *result.written])
    return 0


def add_recompute_norms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help="a detres checkpoint; it knows its configuration and data")
    parser.add_argument("--output", required=True, help="the checkpoint to write")
    parser.add_argument("--images", type=int, help="how many training images; default: as many as the set has")
    parser.add_argument("--evaluate", action="store_true", help="the validation metrics before and after")
    parser.add_argument("--trust-code", action="store_true", help="allow a checkpoint to name classes of your own")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change: data.workers=8")


def recompute_norms(arguments: argparse.Namespace) -> int:
    from detres.jobs.recompute_norms import recompute_norms

    options = {name: getattr(arguments, name) for name in ("images", "evaluate", "overrides", "trust_code")}
    result = recompute_norms(arguments.weights, arguments.output, **options)
    print(f"batch norm statistics of {result.num_images} training images")
    if arguments.evaluate:
        print(result.describe())
    print_paths([Path(arguments.output)])
    return 0
