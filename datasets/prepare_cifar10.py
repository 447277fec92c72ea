"""Fetch CIFAR-10 (the python batches, 170 MB) into cifar10/ below DETRES_DATASETS.

python datasets/prepare_cifar10.py
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from detres.data.archives import fetch_and_extract
from detres.data.cifar_batches import FOLDER, MD5
from detres.files.download import Download, DownloadError, file_checksum

ARCHIVE = Download(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", 170498071, "md5:c58f30108f718f92721af3b95e74349a"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch what is missing or damaged; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(os.environ.get("DETRES_DATASETS", Path(__file__).resolve().parent))
    parser.add_argument("--root", type=Path, default=root, help="the folder of all data sets (default: %(default)s)")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete the .tar.gz file")
    options = parser.parse_args(arguments)
    folder = options.root / "cifar10"
    try:
        if wrong_files(folder / FOLDER):
            fetch_and_extract(ARCHIVE, folder, keep_archive=options.keep_archives)
            if wrong := wrong_files(folder / FOLDER):
                raise DownloadError(f"{folder / FOLDER}: {', '.join(wrong)} not as published; run this again")
        print(f"{folder / FOLDER}: complete, 50000 training and 10000 test images")
    except OSError as error:
        kind = "" if isinstance(error, DownloadError) else f"{options.root}: "
        print(f"prepare_cifar10: {kind}{error}", file=sys.stderr)
        return 1
    return 0


def wrong_files(folder: Path) -> list[str]:
    """The batches that are missing in `folder`, or are not the published ones."""
    return [
        name
        for name, published in MD5.items()
        if not (folder / name).is_file() or file_checksum(folder / name, "md5") != published
    ]


if __name__ == "__main__":
    sys.exit(main())
