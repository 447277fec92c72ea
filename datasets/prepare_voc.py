"""Fetch PASCAL VOC 2007 (trainval and test) and 2012 (trainval) into VOCdevkit/ below DETRES_DATASETS: 3 GB.

python datasets/prepare_voc.py               # all: what voc_r50.yaml needs
python datasets/prepare_voc.py --only 2007   # 2007 trainval and test
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from detres.data.archives import fetch_and_extract
from detres.files.download import Download, DownloadError

SITE = "https://thor.robots.ox.ac.uk/pascal/VOC"
# year -> (archive, split that it brings, images with annotations there)
ARCHIVES = {
    "2007": [
        (
            Download(f"{SITE}/voc2007/VOCtrainval_06-Nov-2007.tar", None, "md5:c52e279531787c972589f7e41ab4ae64"),
            "trainval",
            5011,
        ),
        (
            Download(f"{SITE}/voc2007/VOCtest_06-Nov-2007.tar", None, "md5:b6e924de25625d8de591ea690078ad9f"),
            "test",
            4952,
        ),
    ],
    "2012": [
        (
            Download(f"{SITE}/voc2012/VOCtrainval_11-May-2012.tar", None, "md5:6cd6e144f989b92b3379bac3b3de84fd"),
            "trainval",
            11540,
        ),
    ],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch what is missing; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(os.environ.get("DETRES_DATASETS", Path(__file__).resolve().parent))
    parser.add_argument("--root", type=Path, default=root, help="the folder of all data sets (default: %(default)s)")
    parser.add_argument("--only", choices=list(ARCHIVES), action="append", help="fetch this year (may be repeated)")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete the .tar files")
    options = parser.parse_args(arguments)
    try:
        for year in options.only or ARCHIVES:
            folder = options.root / "VOCdevkit" / f"VOC{year}"
            for download, split, num_images in ARCHIVES[year]:
                if not is_complete(folder, split, num_images):
                    fetch_and_extract(download, options.root, keep_archive=options.keep_archives)
                print(f"{folder}, {split}: complete, {num_images} images")
    except OSError as error:
        kind = "" if isinstance(error, DownloadError) else f"{options.root}: "
        print(f"prepare_voc: {kind}{error}", file=sys.stderr)
        return 1
    return 0


def is_complete(folder: Path, split: str, num_images: int) -> bool:
    """Whether the split's list names `num_images` images, all of which are there with their annotations."""
    names = folder / "ImageSets" / "Main" / f"{split}.txt"
    stems = names.read_text().split() if names.is_file() else []
    images = {path.stem for path in (folder / "JPEGImages").glob("*.jpg")}
    annotated = {path.stem for path in (folder / "Annotations").glob("*.xml")}
    return len(stems) == num_images and images.issuperset(stems) and annotated.issuperset(stems)


if __name__ == "__main__":
    sys.exit(main())
