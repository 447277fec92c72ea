"""The images that localisation is about: those whose objects are all of one class, which is then the image's class."""

import numpy as np

from detres.data.annotations import DatasetError, DetectionDataset, drop_messages
from detres.data.views import SubsetDataset


class OneClassDataset(SubsetDataset):
    """The images of `dataset` with objects of exactly one class; there may be several of them.

    ImageNet's rule (Russakovsky et al., 2015, section 3.2): an image has one label, and a box for each instance of it.
    Ignored objects do not count. The images left out are told in `drop_report`. Raises DatasetError when none is left;
    `where` names the set in the message.
    """

    def __init__(self, dataset: DetectionDataset, where: str = "data") -> None:
        found = [dataset.annotations(i) for i in range(len(dataset))]
        counts = np.array([len(np.unique(each.labels[~each.ignore])) for each in found], dtype=np.int64)
        kept = np.flatnonzero(counts == 1)
        self._left_out = {
            reason: number
            for reason, number in (
                ("images without an object to localise", int((counts == 0).sum())),
                ("images with objects of several classes", int((counts > 1).sum())),
            )
            if number
        }
        if not len(kept):
            text = f"none of the {len(dataset)} images has objects of exactly one class, which localisation needs"
            raise DatasetError(f"{where}: {text}; check the annotations, or train a detector (model.type faster_rcnn)")
        super().__init__(dataset, kept)
        self.drop_report = {**dataset.drop_report, **self._left_out}

    def drop_messages(self) -> list[str]:
        """One line per reason for which annotations or images were left out."""
        return [*drop_messages(self._dataset), *(f"{n} {reason} are left out" for reason, n in self._left_out.items())]

    def label(self, index: int) -> int:
        """The class of an image."""
        found = self.annotations(index)
        return int(found.labels[~found.ignore][0])
