"""Several data sets with the same classes as one (VOC 07 + 12)."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from detres.data.annotations import Annotations, DatasetError, DetectionDataset, drop_messages
from detres.data.views import with_classes


class JoinedDataset:
    """The images of `datasets`, one set after the other; labels and category ids are those of the first.

    Classes may come in another order, but must be the same: DatasetError otherwise. Where an image id occurs in
    two sets, ids become "0:id", "1:id", ... by the position of the set.
    """

    def __init__(self, datasets: Sequence[DetectionDataset]) -> None:
        if not datasets:
            raise DatasetError("there is nothing to join: the list of data sets is empty; give at least one")
        first = datasets[0]
        self.class_names, self.category_ids = first.class_names, first.category_ids
        for position, dataset in enumerate(datasets):
            if set(dataset.class_names) != set(self.class_names):
                here, there = sorted(dataset.class_names), sorted(self.class_names)
                raise DatasetError(
                    f"joined data sets must have the same classes: number 0 has {there}, number {position} has {here}; "
                    "give both the same class_names"
                )
        self._parts = [with_classes(dataset, self.class_names) for dataset in datasets]
        self._ends = list(accumulate(len(part) for part in self._parts))
        ids = [part.image_id(i) for part in self._parts for i in range(len(part))]
        self._ids_collide = len(set(ids)) < len(ids)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def drop_report(self) -> dict[str, int]:
        """How many annotations were left out, by reason."""
        total: dict[str, int] = {}
        for part in self._parts:
            for reason, count in part.drop_report.items():
                total[reason] = total.get(reason, 0) + count
        return total

    def drop_messages(self) -> list[str]:
        """One line per set and reason for which annotations were left out."""
        return [message for part in self._parts for message in drop_messages(part)]

    def image_id(self, index: int) -> int | str:
        """The id of an image in its own set, or "position:id" where that would not be unique."""
        position, inner = self._locate(index)
        own = self._parts[position].image_id(inner)
        return f"{position}:{own}" if self._ids_collide else own

    def file(self, index: int) -> str:
        """The path of an image."""
        position, inner = self._locate(index)
        return self._parts[position].file(inner)

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image as annotated."""
        position, inner = self._locate(index)
        return self._parts[position].size_hw(inner)

    def annotations(self, index: int) -> Annotations:
        """The objects of an image."""
        position, inner = self._locate(index)
        return self._parts[position].annotations(inner)

    def ground_truth_coco(self) -> dict[str, Any]:
        """The ground truth of all sets as one COCO dict, with this set's image ids and annotations renumbered."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        categories: list[dict[str, Any]] = []
        for position, part in enumerate(self._parts):
            truth = part.ground_truth_coco()
            categories = categories or truth["categories"]
            own_ids = {category["name"]: category["id"] for category in categories}
            number_of = {category["id"]: own_ids[category["name"]] for category in truth["categories"]}
            for image in truth["images"]:
                images.append({**image, "id": self._outer_id(position, image["id"])})
            for entry in truth["annotations"]:
                moved = {
                    "id": len(annotations) + 1,
                    "image_id": self._outer_id(position, entry["image_id"]),
                    "category_id": number_of[entry["category_id"]],
                }
                annotations.append({**entry, **moved})
        return {"images": images, "categories": categories, "annotations": annotations}

    def _outer_id(self, position: int, own: int | str) -> int | str:
        return f"{position}:{own}" if self._ids_collide else own

    def _locate(self, index: int) -> tuple[int, int]:
        index = range(len(self))[index]
        position = bisect_right(self._ends, index)
        return position, index - (self._ends[position - 1] if position else 0)
