"""`detres benchmark`, `figure`, `architecture`, `config`: what only looks."""

import argparse

from detres.cli.shared import add_config, print_paths, say


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("work", nargs="?", choices=("infer", "train", "pretrain", "eval", "all"), default="all")
    parser.add_argument("--against", choices=("torchvision",), default="torchvision")
    parser.add_argument("--image", help="default: photos of COCO below DETRES_DATASETS, else a generated picture")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"),
        help="default: 800 1066 for infer, 512 512 for train, 64 64 for pretrain",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size",
        type=int,
        help="default: 1 for infer, 2 for train, 32 for pretrain; for eval the images of the set, default: 5000",
    )
    parser.add_argument(
        "--data", help="images for pretrain, root/<class>/<image>; default: Tiny ImageNet below DETRES_DATASETS"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that read images for pretrain, on each side")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--output", default="runs/benchmark", help="folder for benchmark.json and benchmark.png")


def benchmark(arguments: argparse.Namespace) -> int:
    from detres.jobs.benchmark import benchmark, format_results, write_results

    results = benchmark(
        ("infer", "train", "pretrain", "eval") if arguments.work == "all" else (arguments.work,),
        size_hw=arguments.size,
        batch_size=arguments.batch_size,
        image=arguments.image,
        data=arguments.data,
        workers=arguments.workers,
        repeats=arguments.repeats,
        device=arguments.device,
        threads=arguments.threads,
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
