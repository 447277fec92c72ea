"""Fetch COCO 2017 into coco/ below DETRES_DATASETS: annotations, val2017 (1 GB), train2017 (19 GB; twice as unpacked).

python datasets/prepare_coco.py                  # all
python datasets/prepare_coco.py --only val2017   # the annotations and val2017
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from detres.data.archives import fetch_and_extract
from detres.files.download import Download, DownloadError

# cocodataset.org publishes no checksums; these md5 sums are the ones in wide use. The host has no https certificate.
SITE = "http://images.cocodataset.org"
ANNOTATIONS = Download(
    f"{SITE}/annotations/annotations_trainval2017.zip", 252907541, "md5:f4bbac642086de4f52a3fdda2de5fa2c"
)
IMAGES = {
    "val2017": (Download(f"{SITE}/zips/val2017.zip", 815585330, "md5:442b8da7639aecaf257c1dceb8ba8c80"), 5000),
    "train2017": (Download(f"{SITE}/zips/train2017.zip", 19336861798, "md5:cced6f7f71b7629ddf16f17bbcfab6b2"), 118287),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch what is missing; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(os.environ.get("DETRES_DATASETS", Path(__file__).resolve().parent))
    parser.add_argument("--root", type=Path, default=root, help="the folder of all data sets (default: %(default)s)")
    parser.add_argument("--only", choices=list(IMAGES), action="append", help="fetch this split (may be repeated)")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete the .zip files")
    options = parser.parse_args(arguments)
    folder = options.root / "coco"
    try:
        wanted = [folder / "annotations" / f"instances_{split}.json" for split in IMAGES]
        if not all(path.is_file() for path in wanted):
            fetch_and_extract(ANNOTATIONS, folder, keep_archive=options.keep_archives)
        for split in options.only or IMAGES:
            download, num_images = IMAGES[split]
            if sum(1 for _ in (folder / split).glob("*.jpg")) < num_images:
                fetch_and_extract(download, folder, keep_archive=options.keep_archives)
            print(f"{folder / split}: complete, {num_images} images")
    except OSError as error:
        kind = "" if isinstance(error, DownloadError) else f"{options.root}: "
        print(f"prepare_coco: {kind}{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
