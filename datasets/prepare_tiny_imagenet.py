"""Fetch Tiny-ImageNet (200 classes, 64x64 pixels, 250 MB) into tiny-imagenet-200/ below DETRES_DATASETS.

Its validation images are moved into one folder per class.

python datasets/prepare_tiny_imagenet.py
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from detres.data.annotations import DatasetError
from detres.data.archives import fetch_and_extract
from detres.data.flat_labels import move_into_class_folders, read_flat_labels
from detres.files.download import Download, DownloadError

ARCHIVE = Download("http://cs231n.stanford.edu/tiny-imagenet-200.zip", None, "md5:90528d7ca1a48142e341f4ef8d21d0de")
FOLDER = "tiny-imagenet-200"
NUM_CLASSES, NUM_TRAIN, NUM_VAL = 200, 100_000, 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch what is missing; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(os.environ.get("DETRES_DATASETS", Path(__file__).resolve().parent))
    parser.add_argument("--root", type=Path, default=root, help="the folder of all data sets (default: %(default)s)")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete the .zip file")
    options = parser.parse_args(arguments)
    folder = options.root / FOLDER
    try:
        if not is_complete(folder):
            if not (folder / "val" / "images").is_dir():  # else it was unpacked by hand, or the moving was interrupted
                fetch_and_extract(ARCHIVE, options.root, keep_archive=options.keep_archives)
            sort_val(folder / "val")
            if not is_complete(folder):
                text = f"{folder}: not {NUM_TRAIN} and {NUM_VAL} images after unpacking"
                raise DownloadError(f"{text}; delete the folder and run this again")
        print(f"{folder}: complete, {NUM_TRAIN} training and {NUM_VAL} validation images of {NUM_CLASSES} classes")
    except (OSError, DatasetError) as error:
        kind = "" if isinstance(error, DownloadError | DatasetError) else f"{options.root}: "
        print(f"prepare_tiny_imagenet: {kind}{error}", file=sys.stderr)
        return 1
    return 0


def sort_val(folder: Path) -> None:
    """Move val/images/*.JPEG to val/<class>/."""
    move_into_class_folders(folder / "images", read_flat_labels(folder / "val_annotations.txt"), folder)
    if not any((folder / "images").iterdir()):
        shutil.rmtree(folder / "images")


def is_complete(folder: Path) -> bool:
    """Whether all classes and all images are there, those for validation in class folders."""
    train, val = list(folder.glob("train/n*/images")), list(folder.glob("val/n*"))
    num_train, num_val = (sum(len(os.listdir(images)) for images in split) for split in (train, val))
    return (len(train), len(val), num_train, num_val) == (NUM_CLASSES, NUM_CLASSES, NUM_TRAIN, NUM_VAL)


if __name__ == "__main__":
    sys.exit(main())
