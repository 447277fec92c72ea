"""Detections: what a detector found in one image.

Shapes: D detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """Boxes by decreasing score.

    boxes_xyxy     (D, 4) float32 in pixels
    scores         (D,) float32 in [0, 1]
    labels         (D,) int64, 0 ... K-1
    class_names    one name per label, or empty when nobody named them
    image_size_hw  height and width of the image that the boxes lie in
    image          (3, H, W) uint8 RGB, when it was kept for drawing
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()
    image_size_hw: tuple[int, ...] = ()
    image: Tensor | None = None

    @classmethod
    def empty(cls) -> "Detections":
        """No detections."""
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __getitem__(self, index: Any) -> "Detections":
        """The detections that a mask, a slice or an index tensor chooses."""
        return replace(self, boxes_xyxy=self.boxes_xyxy[index], scores=self.scores[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "Detections":
        """The same detections on another device."""
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
        )

    def names(self) -> list[str]:
        """The class name of every detection ("class 3" where labels have no names)."""
        return [
            self.class_names[label] if label < len(self.class_names) else f"class {label}"
            for label in self.labels.tolist()
        ]

    def to_coco(self, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Entries of a COCO results file: xywh boxes, and `category_ids[label]` (default: label + 1)."""
        rows = []
        for (x1, y1, x2, y2), score, label in zip(
            self.boxes_xyxy.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True
        ):
            category = category_ids[label] if category_ids is not None else label + 1
            bbox = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": score})
        return rows

    def draw(self, image: Any = None, score_threshold: float = 0.5, *, enlarge: bool = False) -> Any:
        """A PIL picture of the image with labelled boxes; `enlarge`: small ones by a whole number, for room for names.

        `image`: (3, H, W) uint8 tensor, (H, W, 3) uint8 array or PIL image; default: the one that was kept.
        Raises ValueError when there is none.
        """
        from detres.structures.drawing import draw_boxes, enlarged

        picture = self.image if image is None else image
        if picture is None:
            raise ValueError(
                "these detections carry no image: pass one, as in detections.draw(image), "
                "or get them from Detector.predict, which keeps it"
            )
        shown = self[self.scores >= score_threshold]
        picture, factor = enlarged(picture) if enlarge else (picture, 1)
        return draw_boxes(
            picture, factor * shown.boxes_xyxy, shown.names(), shown.scores.tolist(), shown.labels.tolist()
        )
