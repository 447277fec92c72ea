"""`detres <command>`: reads the arguments, calls the job, says what came of it. tools/*.py are doors into the same."""

import argparse
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `detres ...`; returns the exit code: 0, 1 for what the user can mend, 130 or 143 when interrupted."""
    parser = argparse.ArgumentParser(prog="detres", description="Faster R-CNN on ResNets: train, evaluate, predict.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for name, (add_arguments, command, help_text) in _COMMANDS.items():
        added = commands.add_parser(name, help=help_text, description=help_text)
        add_arguments(added)
        added.set_defaults(command=command)
    arguments, rest = parser.parse_known_args(argv)
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

    SIGTERM ends a command as Ctrl-C does, so that it tidies up; training puts its own handlers in place meanwhile.
    """
    from detres.engine.interruption import Interruption

    interruption = Interruption()
    try:
        with interruption, interruption.at_once(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return command(arguments)
    except (ValueError, OSError, ArithmeticError, RuntimeError, ImportError) as error:
        if os.environ.get("DETRES_DEBUG"):
            raise
        print(f"detres: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(f"detres: {str(stopped) or 'interrupted'}", file=sys.stderr)
        return getattr(stopped, "exit_code", 130)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"detres: warning: {message}", file=sys.stderr)


def _add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--config", required=required, help="a YAML file, or the name of a shipped one: coco_r50.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change: train.batch_size=8")


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--resume", action="store_true", help="go on from last.pt of the run directory")


def _train(arguments: argparse.Namespace) -> int:
    return _run_training(arguments, "detector")


def _pretrain(arguments: argparse.Namespace) -> int:
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
    _print_paths([summary.best_checkpoint or summary.last_checkpoint, *result.written])
    return 0


def _add_eval(parser: argparse.ArgumentParser) -> None:
    _add_config(parser, required=False)
    what = parser.add_mutually_exclusive_group(required=True)
    text = "a checkpoint (--config may then be left out), or a state dict that fits the configured model; several: an "
    what.add_argument("--weights", nargs="+", metavar="FILE", help=text + "ensemble of classifiers")
    what.add_argument("--detections", help="judge an existing COCO results file instead of a model")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--output", help="folder for the results; default: beside the weights, eval or eval_test")
    parser.add_argument("--trust-code", action="store_true", help="allow a checkpoint to name classes of your own")


def _eval(arguments: argparse.Namespace) -> int:
    from detres.config import load_config
    from detres.jobs.eval_weights import stored_config
    from detres.jobs.evaluate import evaluate

    weights = [text for text in arguments.weights or [] if not _is_override(text)]
    overrides = [text for text in arguments.weights or [] if _is_override(text)] + arguments.overrides
    if not weights and arguments.detections is None:
        raise ValueError(f"--weights: got {' '.join(arguments.weights)}, expected a file")
    if arguments.config is not None:
        config = load_config(arguments.config, overrides).config
    elif weights:
        config = stored_config(weights[0], overrides, trust_code=arguments.trust_code)
    else:
        raise ValueError("--detections: results do not tell what they were made on; add --config")
    beside = Path(weights[0] if weights else arguments.detections).parent
    output = arguments.output or str(beside / ("eval" if arguments.split == "val" else "eval_test"))
    evaluation, written = evaluate(
        config,
        weights=weights,
        detections=arguments.detections,
        split=arguments.split,
        output=Path(output),
        trust_code=arguments.trust_code,
    )
    print(f"{evaluation.metrics.table()}\n")
    _print_paths(written)
    return 0


def _is_override(text: str) -> bool:
    """Whether an argument behind several values is a setting and not one of them: `eval.batch_size=8`."""
    return re.match(r"[a-z_]\w*(\.\w+)*=", text) is not None and not Path(text).exists()


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help="a detres checkpoint; it knows its configuration and classes")
    parser.add_argument("sources", nargs="+", help="images, folders, videos, globs")
    parser.add_argument("--output", required=True, help="folder for the pictures and the JSON file")
    parser.add_argument(
        "--score-threshold", type=float, help="leave out what scores less; default: 0.5 for objects, 0 for labels"
    )
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--trust-code", action="store_true", help="allow a backbone class of your own")
    parser.add_argument("--skip-bad", action="store_true", help="report unreadable images and go on")
    parser.add_argument("--device", default="auto")


def _predict(arguments: argparse.Namespace) -> int:
    from detres.api import load
    from detres.jobs.predict import predict_to_folder

    shown = _ProgressLine()
    summary = predict_to_folder(
        load(arguments.weights, arguments.device, trust_code=arguments.trust_code),
        arguments.sources,
        arguments.output,
        score_threshold=arguments.score_threshold,
        batch_size=arguments.batch_size,
        on_bad_image="skip" if arguments.skip_bad else "error",
        progress=shown.update,
    )
    shown.finish()
    for file, reason in summary.skipped:
        print(f"skipped {file}: {reason}")
    print(summary.headline)
    _print_paths([summary.json, *summary.tables, *summary.pictures[:3]])
    if len(summary.pictures) > 3:
        print(f"  ... and {len(summary.pictures) - 3} more pictures")
    return 0


class _ProgressLine:
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
        text = f"{done}/{total if total is not None else '?'} {name}"
        print(f"\r\x1b[K{text}" if self._on_terminal else text, end="" if self._on_terminal else "\n", file=sys.stderr)

    def finish(self) -> None:
        """Clear the line."""
        if self._on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr)


def _add_recompute_norms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help="a detres checkpoint; it knows its configuration and data")
    parser.add_argument("--output", required=True, help="the checkpoint to write")
    parser.add_argument("--images", type=int, help="how many training images; default: as many as the set has")
    parser.add_argument("--evaluate", action="store_true", help="the validation metrics before and after")
    parser.add_argument("--trust-code", action="store_true", help="allow a backbone class of your own")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change: data.workers=8")


def _recompute_norms(arguments: argparse.Namespace) -> int:
    from detres.jobs.recompute_norms import recompute_norms

    options = {name: getattr(arguments, name) for name in ("images", "evaluate", "overrides", "trust_code")}
    result = recompute_norms(arguments.weights, arguments.output, **options)
    print(f"batch norm statistics of {result.num_images} training images")
    if arguments.evaluate:
        print(result.describe())
    _print_paths([Path(arguments.output)])
    return 0


def _add_config_command(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("show",), help="show: the resolved YAML and where each value comes from")
    _add_config(parser)


def _config(arguments: argparse.Namespace) -> int:
    from detres.config import format_resolved, load_config

    print(format_resolved(load_config(arguments.config, arguments.overrides)), end="")
    return 0


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("work", nargs="?", choices=("infer", "train", "pretrain", "all"), default="all")
    parser.add_argument("--against", choices=("torchvision",), default="torchvision")
    parser.add_argument("--image", help="default: photos of COCO below DETRES_DATASETS, else a generated picture")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"),
        help="default: 800 1066 for infer, 512 512 for train, 64 64 for pretrain",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, help="default: 1 for infer, 2 for train, 32 for pretrain")
    parser.add_argument(
        "--data", help="images for pretrain, root/<class>/<image>; default: Tiny ImageNet below DETRES_DATASETS"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that read images for pretrain, on each side")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--output", default="runs/benchmark", help="folder for benchmark.json and benchmark.png")


def _benchmark(arguments: argparse.Namespace) -> int:
    from detres.jobs.benchmark import benchmark, format_results, write_results

    results = benchmark(
        ("infer", "train", "pretrain") if arguments.work == "all" else (arguments.work,),
        size_hw=arguments.size,
        batch_size=arguments.batch_size,
        image=arguments.image,
        data=arguments.data,
        workers=arguments.workers,
        repeats=arguments.repeats,
        device=arguments.device,
        threads=arguments.threads,
    )
    print(f"\n{format_results(results)}\n")
    _print_paths(write_results(results, arguments.output))
    return 0


def _add_figure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("errors", "responses"), help="of runs, or of checkpoints")
    parser.add_argument("sources", nargs="*", metavar="[label=]path", help="run folders, or checkpoints of classifiers")
    parser.add_argument(
        "--panel", nargs="+", action="append", default=[], metavar=("TITLE", "RUN"), help="errors: a panel of its own"
    )
    parser.add_argument("--top", type=float, metavar="PERCENT", help="errors: end of the axis; default: by the runs")
    parser.add_argument("--images", type=int, default=512, help="responses: how many validation images; default: 512")
    parser.add_argument("--output", help="the picture (.png, .pdf, .svg); default: runs/errors.png, runs/responses.png")
    parser.add_argument("--trust-code", action="store_true", help="allow a backbone class of your own")
    parser.add_argument("--device", default="auto")


def _figure(arguments: argparse.Namespace) -> int:
    from detres.jobs.figures import draw_errors, draw_responses

    output = arguments.output or f"runs/{arguments.what}.png"
    if arguments.what == "errors":
        panels = [("", arguments.sources)] if arguments.sources else []
        panels += [(title, runs) for title, *runs in arguments.panel]
        figure = draw_errors(panels, output, top=arguments.top)
    else:
        if arguments.panel or arguments.top is not None:
            raise ValueError("figure responses: --panel and --top belong to figure errors")
        options = {"num_images": arguments.images, "device": arguments.device, "trust_code": arguments.trust_code}
        figure = draw_responses(arguments.sources, output, **options)
    print(f"{figure.table}\n")
    _print_paths(figure.written)
    return 0


def _add_architecture(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: what such networks see")
    parser.add_argument("--classes", type=int, help="default: 1000, with a CIFAR ResNet 10, with a detector 80")


def _architecture(arguments: argparse.Namespace) -> int:
    from detres.config import load_config
    from detres.jobs.architecture import architecture

    config = load_config(arguments.config, arguments.overrides).config
    print(architecture(config, arguments.size, arguments.classes).table())
    return 0


def _print_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"  {path}")


_COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Command, str]] = {
    "train": (_add_train, _train, "train a detector and report its mAP"),
    "pretrain": (_add_train, _pretrain, "train a classifier, whose backbone a detector can start from"),
    "eval": (_add_eval, _eval, "evaluate weights or an existing results file"),
    "predict": (_add_predict, _predict, "detect in, or label, images, folders and videos"),
    "recompute-norms": (_add_recompute_norms, _recompute_norms, "recompute batch norm statistics on training images"),
    "benchmark": (_add_benchmark, _benchmark, "time detres against torchvision, the same work on both sides"),
    "figure": (_add_figure, _figure, "draw error curves of runs, or layer responses of checkpoints, as in the paper"),
    "architecture": (_add_architecture, _architecture, "print a network's layers, sizes, parameters, multiply-adds"),
    "config": (_add_config_command, _config, "show a resolved configuration"),
}
