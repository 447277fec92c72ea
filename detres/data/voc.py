"""PASCAL VOC folders: Annotations/*.xml, JPEGImages/, ImageSets/Main/{split}.txt, of any year and for any classes.

The XML gives boxes as 1-based inclusive pixel indices; here they become continuous: x1 - 1, y1 - 1, x2, y2.
Shapes: G boxes of one image, K classes.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detres.data.annotated_files import AnnotatedFiles, ObjectRow
from detres.data.annotations import DatasetError
from detres.data.image_io import read_size_hw
from detres.data.voc_xml import VocAnnotation, read_voc_xml

IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class XmlFiles(AnnotatedFiles):
    """Images with VOC's XML files, wherever these are.

    source       what they are, for messages
    stems        the images' ids
    xml_files    one for each image; None: nobody knows the objects, and the sizes are read from the images
    image_files  one for each image

    The rest is as in VocDataset.
    """

    def __init__(
        self,
        source: str,
        stems: Sequence[str],
        xml_files: Sequence[Path] | None,
        image_files: Sequence[str],
        *,
        class_names: Sequence[str] | None,
        use_difficult: bool,
        on_bad_box: str,
    ) -> None:
        if xml_files is None:
            entries = [VocAnnotation(read_size_hw(path), []) for path in image_files]
        else:
            entries = [read_voc_xml(path) for path in xml_files]
        rows = [
            ObjectRow(image, found.name, found.box_1based, found.difficult, f"{stem}.xml")
            for image, (stem, entry) in enumerate(zip(stems, entries, strict=True))
            for found in entry.objects
        ]
        super().__init__(
            source,
            stems,
            image_files,
            [entry.size_hw for entry in entries],
            rows,
            first_pixel=1,
            class_names=class_names,
            use_difficult=use_difficult,
            on_bad_box=on_bad_box,
        )


class VocDataset(XmlFiles):
    """The images of one split of a VOC folder, in the order of the split's file.

    root           for instance VOCdevkit/VOC2007
    split          the name of a file in ImageSets/Main, for instance trainval
    class_names    the classes to use, in this order; objects of others are counted in `drop_report`.
                   None: all that occur in the split's annotations, sorted
    use_difficult  False: difficult objects are `ignore` regions in training. They are always skipped in evaluation
    annotated      False: there are no XML files, as for VOC2012's test images, whose boxes only the evaluation server
                   knows; class_names must then be given
    max_images     only the first ones
    on_bad_box     "drop": annotations that cannot be used are counted; "error": DatasetError

    Image ids are the names of the XML files without suffix; category ids are 1 ... K. Raises DatasetError for a
    folder, split or XML file that is missing or not in VOC's form.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        class_names: Sequence[str] | None = None,
        use_difficult: bool = False,
        annotated: bool = True,
        max_images: int | None = None,
        on_bad_box: str = "drop",
    ) -> None:
        folder = Path(root)
        stems = _read_split(folder, split)[:max_images]
        xml_files = [folder / "Annotations" / f"{stem}.xml" for stem in stems] if annotated else None
        super().__init__(
            f"{folder} ({split})",
            stems,
            xml_files,
            image_paths(folder, stems),
            class_names=class_names,
            use_difficult=use_difficult,
            on_bad_box=on_bad_box,
        )


def _read_split(folder: Path, split: str) -> list[str]:
    """The image names in ImageSets/Main/{split}.txt (the first word of each line)."""
    sets = folder / "ImageSets" / "Main"
    path = sets / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a null byte in the name
        there = sorted(file.stem for file in sets.glob("*.txt")) if sets.is_dir() else []
        hint = f"its splits are {there}" if there else "no ImageSets/Main/*.txt is there: is it a VOC folder?"
        raise DatasetError(f"{path}: the split cannot be read ({type(error).__name__}); {hint}") from error
    stems = [line.split()[0] for line in lines if line.strip()]
    if not stems:
        raise DatasetError(f"{path}: the data set is empty: the split lists no images; write one name per line")
    if len(set(stems)) < len(stems):
        repeated = Counter(stems).most_common(1)[0][0]
        raise DatasetError(f"{path}: image {repeated!r} is listed twice; remove the repeated lines")
    return stems


def image_paths(folder: Path, stems: list[str]) -> list[str]:
    """Where each image is; for one that is missing, where it should be (reading it then says so)."""
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if images is None:
        raise DatasetError(f"{folder}: no image folder; expected one of {', '.join(IMAGE_FOLDERS)} beside Annotations")
    names: dict[str, str] = {}
    for entry in sorted(os.listdir(images)):
        stem, suffix = os.path.splitext(entry)
        if suffix.lower() in IMAGE_SUFFIXES:
            names.setdefault(stem, entry)
    return [str(images / names.get(stem, f"{stem}.jpg")) for stem in stems]
