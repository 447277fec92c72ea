"""`detres train`, `pretrain`, `recompute-norms`, which end in a checkpoint, and `find-lr`, which comes before."""

import argparse
import shlex
from pathlib import Path

from detres.cli.shared import add_config, print_paths, say


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
    say(f"\n{result.evaluation.metrics.table()}\n")
    which = "best" if result.weights == summary.best_checkpoint else "last"
    say(f"trained {summary.steps} steps in {summary.seconds:.0f} s; the table is of the {which} weights")
    print_paths([result.weights, *result.written])
    return 0


def add_find_lr(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--from", dest="low", type=float, metavar="LR", help="default: 1e-5 for SGD, 1e-6 for AdamW")
    parser.add_argument("--to", dest="high", type=float, metavar="LR", help="default: 10 for SGD, 1 for AdamW")
    parser.add_argument("--steps", type=int, default=100, help="default: 100")
    parser.add_argument(
        "--stop-above", type=float, default=4.0, metavar="N", help="end at N times the lowest loss; default: 4"
    )
    parser.add_argument("--output", help="folder for find_lr.png and find_lr.json; default: runs/find_lr_CONFIG")


def find_lr(arguments: argparse.Namespace) -> int:
    from detres.config import load_config
    from detres.jobs.find_lr import find_lr

    loaded = load_config(arguments.config, arguments.overrides)
    options = {name: getattr(arguments, name) for name in ("low", "high", "steps", "stop_above")}
    found = find_lr(loaded, arguments.output, **options)
    say(found.describe())
    kept = [text for text in arguments.overrides if not text.startswith("train.optimizer.lr=")]
    tool = "pretrain" if loaded.config.model.type == "classifier" else "train_net"
    for name, rate in found.suggestions.items():
        command = ["python", f"tools/{tool}.py", "--config", arguments.config, *kept, f"train.optimizer.lr={rate:.2g}"]
        say(f"{name}:\n  {shlex.join(command)}")
    print_paths(found.written)
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
    say(f"batch norm statistics of {result.num_images} training images")
    if arguments.evaluate:
        say(result.describe())
    print_paths([Path(arguments.output)])
    return 0
