"""ImageNet's localisation data (CLS-LOC): Data/CLS-LOC/{split}/, Annotations/CLS-LOC/{split}/**/*.xml.

The XML is VOC's, but its corners are 0-based inclusive pixel indices (they run from 0 to width - 1): here they become
continuous, x1, y1, x2 + 1, y2 + 1. Only images that have an annotation are used: less than half of the training set.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from detres.data.annotated_files import AnnotatedFiles, ObjectRow
from detres.data.annotations import DatasetError
from detres.data.folder_scan import ScanProgress
from detres.data.voc_xml import read_voc_xml


class ImageNetLocDataset(AnnotatedFiles):
    """The annotated images of one split of ImageNet's CLS-LOC folders, sorted by name.

    root         the folder that holds Data/ and Annotations/ (ILSVRC in the archives)
    split        train or val
    class_names  WordNet ids, in this order; objects of others are counted. None: those that occur, sorted
    max_images   only the first ones
    on_bad_box   "drop": annotations that cannot be used are counted; "error": DatasetError

    Image ids are the paths of the XML files without suffix: n01440764/n01440764_10040. ImageNet's rules know no
    difficult objects, so the flag is left alone. Raises DatasetError for folders or files that are missing or damaged.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        class_names: Sequence[str] | None = None,
        max_images: int | None = None,
        on_bad_box: str = "drop",
    ) -> None:
        notes, images = (Path(root) / kind / "CLS-LOC" / split for kind in ("Annotations", "Data"))
        for folder in (notes, images):
            if not folder.is_dir():
                text = "no such folder; expected Data/CLS-LOC and Annotations/CLS-LOC below data.*.root, with the split"
                raise DatasetError(f"{folder}: {text} in each (train or val)")
        ids = sorted(path.relative_to(notes).with_suffix("").as_posix() for path in notes.rglob("*.xml"))[:max_images]
        if not ids:
            raise DatasetError(f"{notes}: the data set is empty: no .xml file is there; unpack the annotations again")
        progress, entries = ScanProgress(notes), []
        for name in ids:
            entries.append(read_voc_xml(notes / f"{name}.xml"))
            progress.add(1)
        progress.finish()
        rows = [
            ObjectRow(image, found.name, found.box_1based, found.difficult, f"{name}.xml")
            for image, (name, entry) in enumerate(zip(ids, entries, strict=True))
            for found in entry.objects
        ]
        super().__init__(
            f"{root} ({split})",
            ids,
            [str(images / f"{name}.JPEG") for name in ids],
            [entry.size_hw for entry in entries],
            rows,
            first_pixel=0,
            class_names=class_names,
            use_difficult=True,
            on_bad_box=on_bad_box,
        )
