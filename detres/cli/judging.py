"""`detres eval` and `detres predict`: what uses a checkpoint."""

import argparse
import re
from pathlib import Path

from detres.cli.shared import ProgressLine, add_config, print_paths, say
from detres.files.plain_text import printable


def add_eval(parser: argparse.ArgumentParser) -> None:
    add_config(parser, required=False)
    what = parser.add_mutually_exclusive_group(required=True)
    text = "a checkpoint, another toolkit's file or zoo:NAME (--config may then be left out), or a state dict that fits"
    text += " the configured model; several: an "
    what.add_argument("--weights", nargs="+", metavar="FILE", help=text + "ensemble")
    what.add_argument("--detections", help="judge an existing COCO results file instead of a model")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--output", help="folder for the results; default: beside the weights, eval or eval_test")
    parser.add_argument("--trust-code", action="store_true", help="allow a checkpoint to name classes of your own")


def evaluate(arguments: argparse.Namespace) -> int:
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
    beside = _folder_of(weights[0] if weights else arguments.detections)
    output = arguments.output or str(beside / ("eval" if arguments.split == "val" else "eval_test"))
    evaluation, written = evaluate(
        config,
        weights=weights,
        detections=arguments.detections,
        split=arguments.split,
        output=Path(output),
        trust_code=arguments.trust_code,
    )
    say(f"{evaluation.metrics.table()}\n")
    print_paths(written)
    return 0


def _folder_of(source: str) -> Path:
    """Where a file lies; for published weights (`zoo:NAME`, `torchvision:NAME`) a folder of their own below runs."""
    publisher, _, name = source.partition(":")
    return Path("runs") / name.replace("/", "_") if publisher in ("zoo", "torchvision") else Path(source).parent


def _is_override(text: str) -> bool:
    """Whether an argument behind several values is a setting and not one of them: `eval.batch_size=8`."""
    return re.match(r"[a-z_]\w*(\.\w+)*=", text) is not None and not Path(text).exists()


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help="a checkpoint, another toolkit's file, or zoo:NAME")
    parser.add_argument(
        "sources", nargs="+", help="images, folders, videos, globs; settings to change too: eval.box_refinement={}"
    )
    parser.add_argument("--output", required=True, help="folder for the pictures and the JSON file")
    parser.add_argument(
        "--score-threshold", type=float, help="leave out what scores less; default: 0.5 for objects, 0 for labels"
    )
    text = "a class that a localizer is to find, whatever else there may be; may be repeated"
    parser.add_argument("--class", dest="classes", action="append", metavar="NAME", help=text)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--trust-code", action="store_true", help="allow a checkpoint to name classes of your own")
    parser.add_argument("--skip-bad", action="store_true", help="report unreadable images and go on")
    parser.add_argument("--device", default="auto")


def predict(arguments: argparse.Namespace) -> int:
    from detres.api import load
    from detres.jobs.predict import predict_to_folder

    shown = ProgressLine()
    overrides = [text for text in arguments.sources if _is_override(text)]
    predictor = load(arguments.weights, arguments.device, trust_code=arguments.trust_code, overrides=overrides)
    summary = predict_to_folder(
        predictor.optimize_for_inference(),
        [text for text in arguments.sources if text not in overrides],
        arguments.output,
        score_threshold=arguments.score_threshold,
        classes=arguments.classes,
        batch_size=arguments.batch_size,
        on_bad_image="skip" if arguments.skip_bad else "error",
        progress=shown.update,
    )
    shown.finish()
    for file, reason in summary.skipped:
        say(f"skipped {printable(file)}: {reason}")
    say(summary.headline)
    print_paths([summary.json, *summary.tables, *summary.pictures[:3]])
    if len(summary.pictures) > 3:
        say(f"  ... and {len(summary.pictures) - 3} more pictures")
    return 0
