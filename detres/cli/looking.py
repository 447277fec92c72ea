"""`detres benchmark`, `figure`, `architecture`, `config`: what only looks."""

import argparse
from pathlib import Path

from detres.cli.shared import add_config, print_paths, say


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "works", nargs="*", metavar="WORK",
        help="infer, infer_v2, train, data, eval, classify, pretrain; default: all of them",
    )  # fmt: skip
    parser.add_argument(
        "--against", default="torchvision", help="torchvision, or detres: itself in eager float32 without options"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", help="of our side: float32, bfloat16, float16")
    parser.add_argument("--their-precision", default="float32", help="of the other side, by torch's autocast")
    parser.add_argument("--compile", action="store_true", help="our side by torch.compile")
    parser.add_argument(
        "--allocator", default="own",
        help="malloc's settings: own (theirs default, ours tuned), or default or tuned for both; default: own",
    )  # fmt: skip
    parser.add_argument("--image", help="default: photos of COCO below DETRES_DATASETS, else a generated picture")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"),
        help="default: 800 1066 for infer and infer_v2, 512 512 for train, 64 64 for pretrain",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int,
        help="default: 1 for infer and infer_v2, 2 for train, 32 for pretrain, 128 for classify; for eval and data "
        "the images of the set, default: 5000 and 64",
    )  # fmt: skip
    parser.add_argument(
        "--data", help="for data a folder of photos, with all below it (default: COCO's below DETRES_DATASETS); "
        "for pretrain one of images, root/<class>/<image> (default: Tiny ImageNet below DETRES_DATASETS)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, help="processes that read images for pretrain, on each side")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--profile", action="store_true", help="train on a GPU: count where a step waits for it")
    parser.add_argument("--output", default="runs/benchmark", help="folder for benchmark.json and benchmark.png")


def benchmark(arguments: argparse.Namespace) -> int:
    from detres.files.atomic_file import require_writable
    from detres.jobs.benchmark import WORKS, benchmark, format_results, write_results

    require_writable(Path(arguments.output), "choose another one by --output")
    results = benchmark(
        arguments.works or WORKS,
        against=arguments.against,
        size_hw=arguments.size,
        batch_size=arguments.batch_size,
        image=arguments.image,
        data=arguments.data,
        workers=arguments.workers,
        repeats=arguments.repeats,
        device=arguments.device,
        threads=arguments.threads,
        precision=arguments.precision,
        their_precision=arguments.their_precision,
        compile=arguments.compile,
        allocator=arguments.allocator,
        profile=arguments.profile,
        finished=lambda results: write_results(results, arguments.output),
    )
    say(f"\n{format_results(results)}\n")
    print_paths(write_results(results, arguments.output))
    return 0


def add_figure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("errors", "responses"), help="of runs, or of checkpoints")
    parser.add_argument("sources", nargs="*", metavar="[label=]path", help="run folders, or checkpoints of classifiers")
    parser.add_argument(
        "--panel", nargs="+", action="append", default=[], metavar=("TITLE", "RUN"), help="errors: a panel of its own"
    )
    parser.add_argument("--top", type=float, metavar="PERCENT", help="errors: end of the axis; default: by the runs")
    parser.add_argument("--images", type=int, default=512, help="responses: how many validation images; default: 512")
    parser.add_argument("--output", help="the picture (.png, .pdf, .svg); default: runs/errors.png, runs/responses.png")
    parser.add_argument("--trust-code", action="store_true", help="allow a checkpoint to name classes of your own")
    parser.add_argument("--device", default="auto")


def figure(arguments: argparse.Namespace) -> int:
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
    say(f"{figure.table}\n")
    print_paths(figure.written)
    return 0


def add_architecture(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: what such networks see")
    parser.add_argument("--classes", type=int, help="default: 1000, with a CIFAR ResNet 10, with a detector 80")


def architecture(arguments: argparse.Namespace) -> int:
    from detres.config import load_config
    from detres.jobs.architecture import architecture

    config = load_config(arguments.config, arguments.overrides).config
    say(architecture(config, arguments.size, arguments.classes).table())
    return 0


def add_config_command(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("show",), help="show: the resolved YAML and where each value comes from")
    add_config(parser)


def config(arguments: argparse.Namespace) -> int:
    from detres.config import format_resolved, load_config

    say(format_resolved(load_config(arguments.config, arguments.overrides)).rstrip("\n"))
    return 0
