"""`detres convert` and `detres zoo`: other toolkits' weights."""

import argparse

FORMATS = "detres, torchvision, detectron2, mmdetection, timm, msra, caffe"


def add_convert(parser: argparse.ArgumentParser) -> None:
    for option, name, text in (
        ("--from", "source", f"FORMAT: {FORMATS}; FILE may be zoo:NAME"),
        ("--to", "target", "another FORMAT, and the file to write"),
    ):
        parser.add_argument(option, dest=name, nargs=2, required=True, metavar=("FORMAT", "FILE"), help=text)
    parser.add_argument("--config", help="where data and training of the new checkpoint come from; default: by classes")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="REGEX", help="keys of the file to leave out; may be repeated"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what the file does not tell of its model")


def convert(arguments: argparse.Namespace) -> int:
    from detres.cli.shared import print_paths, say
    from detres.jobs.convert import convert

    (source_format, source), (target_format, target) = arguments.source, arguments.target
    done = convert(
        source,
        source_format,
        target,
        target_format,
        base=arguments.config,
        overrides=arguments.overrides,
        ignore=arguments.ignore,
    )
    say(f"{done.kind}: {done.num_tensors} tensors")
    for text in done.assumed:
        say(f"  assumed: {text}")
    if done.instructions:
        say(f"for the same results in {target_format}:")
        say("\n".join(f"  {line}" for line in done.instructions))
    print_paths([done.path])
    return 0


def add_zoo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", help="an entry's name, or words that names shall have: mmdetection caffe")


def zoo(arguments: argparse.Namespace) -> int:
    from detres.cli.shared import say
    from detres.jobs.zoo import details, table
    from detres.weights.zoo import entries

    wanted = " ".join(arguments.words).removeprefix("zoo:")
    say(details(wanted) if any(entry.name == wanted for entry in entries()) else table(wanted))
    return 0
