"""Unpack ImageNet (ILSVRC 2012) into imagenet/ below DETRES_DATASETS: 145 GB beside the archives.

ImageNet may not be passed on: register at https://image-net.org, accept its terms, and download these three files:
ILSVRC2012_img_train.tar (138 GB), ILSVRC2012_img_val.tar (6.3 GB), ILSVRC2012_devkit_t12.tar.gz (2.5 MB).
The validation images are moved into one folder per class, like the training images.

python datasets/prepare_imagenet.py --archives ~/Downloads
python datasets/prepare_imagenet.py --archives ~/Downloads --only devkit --only val
"""

import argparse
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from detres.data.annotations import DatasetError
from detres.data.archives import extract
from detres.data.flat_labels import move_into_class_folders, read_flat_labels
from detres.files.download import CHUNK, DownloadError, file_checksum, need_space

ARCHIVES = {  # part -> (file, its published md5 sum)
    "devkit": ("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf"),
    "val": ("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622"),
    "train": ("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e"),
}
NUM_CLASSES, NUM_TRAIN, NUM_VAL = 1000, 1_281_167, 50_000
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack what is missing; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(os.environ.get("DETRES_DATASETS", Path(__file__).resolve().parent))
    parser.add_argument("--root", type=Path, default=root, help="the folder of all data sets (default: %(default)s)")
    parser.add_argument("--archives", type=Path, required=True, help="the folder with the three downloaded files")
    parser.add_argument("--only", choices=list(ARCHIVES), action="append", help="unpack this part (may be repeated)")
    options = parser.parse_args(arguments)
    folder = options.root / "imagenet"
    try:
        for part in options.only or ARCHIVES:
            if not is_complete(folder, part):
                unpack(checked_archive(options.archives, part), folder, part)
                if not is_complete(folder, part):
                    raise DownloadError(f"{folder}: {part} is not whole after unpacking; delete it and run this again")
            print(f"{folder}, {part}: complete")
    except (OSError, DatasetError) as error:
        kind = "" if isinstance(error, DownloadError | DatasetError) else f"{options.root}: "
        print(f"prepare_imagenet: {kind}{error}", file=sys.stderr)
        return 1
    return 0


def is_complete(folder: Path, part: str) -> bool:
    """Whether all that a part brings is there."""
    if part == "devkit":
        truth = folder / GROUND_TRUTH
        return truth.is_file() and truth.with_name("meta.mat").is_file()
    classes = list(folder.glob(f"{part}/n*"))
    num_images = sum(len(os.listdir(path)) for path in classes)
    return (len(classes), num_images) == (NUM_CLASSES, NUM_VAL if part == "val" else NUM_TRAIN)


def checked_archive(folder: Path, part: str) -> Path:
    """The downloaded file of a part; DownloadError if it is not there or not the published one."""
    name, published = ARCHIVES[part]
    archive = folder / name
    if not archive.is_file():
        raise DownloadError(f"{archive}: no such file; download it from https://image-net.org (free registration)")
    print(f"{name}: checking {archive.stat().st_size / 1e9:.1f} GB", flush=True)
    if (found := file_checksum(archive, "md5")) != published:
        text = f"{archive}: damaged or incomplete: md5 {found}, expected {published}"
        raise DownloadError(f"{text}; download it again")
    return archive


def unpack(archive: Path, folder: Path, part: str) -> None:
    """Unpack one part to where the configurations expect it."""
    print(f"{archive.name}: unpacking into {folder}", flush=True)
    if part == "train":
        unpack_classes(archive, folder / "train")
    elif part == "val":
        unpack_val(archive, folder)
    else:
        extract(archive, folder)


def unpack_val(archive: Path, folder: Path) -> None:
    """Unpack the validation images into val/<class>/, as the development kit gives their classes."""
    labels = read_flat_labels(folder / GROUND_TRUTH)
    temporary = folder / ".unpacking"
    try:
        extract(archive, temporary)
        move_into_class_folders(temporary, labels, folder / "val", suffix=".JPEG")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unpack_classes(archive: Path, folder: Path) -> None:
    """Unpack the archive of one archive per class; a class folder gets its name once it is whole.

    Class folders that are there are kept, so that an interrupted run goes on where it stopped.
    """
    temporary = folder / ".unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with tarfile.open(archive) as opened:
            for done, member in enumerate(opened, 1):
                if not re.fullmatch(r"n\d{8}\.tar", member.name) or not member.isfile():
                    raise DownloadError(f"{archive}: {member.name!r} in it, expected only archives n<8 digits>.tar")
                if not (folder / member.name.removesuffix(".tar")).exists():
                    _unpack_class(opened, member, temporary, folder)
                if done % 50 == 0:
                    print(f"{archive.name}: {done} of {NUM_CLASSES} classes", flush=True)
    except tarfile.TarError as error:
        raise DownloadError(f"{archive}: not a whole tar archive ({error}); download it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_class(opened: tarfile.TarFile, member: tarfile.TarInfo, temporary: Path, folder: Path) -> None:
    """Unpack the archive of one class by way of the folder `temporary`."""
    need_space(temporary, 2 * member.size, member.name)
    source = opened.extractfile(member)
    assert source is not None, "a plain file has content"
    inner = temporary / member.name
    with source, inner.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
    extract(inner, temporary / inner.stem)
    inner.unlink()
    os.replace(temporary / inner.stem, folder / inner.stem)


if __name__ == "__main__":
    sys.exit(main())
