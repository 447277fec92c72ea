"""Everything that is known about the data of a configuration once they are read."""

from dataclasses import dataclass, field

from detres.jobs.doctor.boxes import Faults
from detres.jobs.doctor.findings import Findings
from detres.jobs.doctor.images import Reading
from detres.jobs.doctor.records import Split


@dataclass(frozen=True)
class Patient:
    """The splits, the masks of faulty boxes of each, the reading of each image by its path, and the findings."""

    splits: list[Split]
    faults: list[Faults]
    readings: dict[str, Reading]
    findings: Findings


@dataclass
class Cleaning:
    """What a cleaned copy of a split leaves out and alters; `changes` says it line by line.

    removed_images  positions of images
    sizes_hw        the true size of images whose entry has none or a turned one
    removed_boxes   rows of boxes, with the reason
    cut_boxes       rows of boxes that are cut at the border
    """

    removed_images: set[int] = field(default_factory=set)
    sizes_hw: dict[int, tuple[int, int]] = field(default_factory=dict)
    removed_boxes: dict[int, str] = field(default_factory=dict)
    cut_boxes: set[int] = field(default_factory=set)
    changes: list[str] = field(default_factory=list)

    def new_size_hw(self, position: int, where: str) -> tuple[int, int] | None:
        """The size to write for an image, which is a change; None where it stays."""
        size_hw = self.sizes_hw.get(position)
        if size_hw is not None:
            self.changes.append(f"{where}: height and width are now {size_hw[0]} and {size_hw[1]}")
        return size_hw

    def remove_image(self, position: int, text: str) -> None:
        """Leave an image out, with its boxes."""
        self.removed_images.add(position)
        self.changes.append(text)
