"""Write the embedded data set: handwritten digits on photographs, in COCO format (see detres.data.digits)."""

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    """Parse the arguments, write the data set, say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    default_root = Path(os.environ.get("DETRES_DATASETS", "datasets"))
    parser.add_argument("--root", type=Path, default=default_root, help="folder of data sets; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-train", type=int, default=1200, help="training scenes; default: %(default)s")
    parser.add_argument("--num-test", type=int, default=200, help="test scenes; default: %(default)s")
    parser.add_argument("--num-crops", type=int, default=8000, help="crops for pretraining; default: %(default)s")
    arguments = parser.parse_args()

    from rich.progress import Progress

    from detres.data.digits import write_digits

    try:
        with Progress(disable=not sys.stdout.isatty(), transient=True) as bar:
            task = bar.add_task("drawing digits", total=None)
            summary = write_digits(
                **vars(arguments), progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
    except (OSError, ValueError) as error:
        print(f"make_digits: {error}", file=sys.stderr)
        return 1
    print(summary.text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
