"""A small data set in COCO's format, with real image files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detres.data.coco import CocoDataset

SIZES_HW = [(40, 60), (60, 40), (50, 50), (30, 80), (64, 32), (48, 64), (40, 40)]
"""Four of these images are landscape or square, two portrait; image number 6 has no objects."""


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    """A folder with instances.json and seven noisy images named 1.png ... 7.png."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for i, (height, width) in enumerate(SIZES_HW):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i + 1}.png")
        images.append({"id": i + 1, "file_name": f"{i + 1}.png", "height": height, "width": width})
        for k in range(i % 3 + 1 if i < 6 else 0):
            entry = {"image_id": i + 1, "category_id": 5 + 5 * (k % 2), "bbox": [2 + k, 3, 12, 10 + k]}
            annotations.append({**entry, "id": len(annotations) + 1, "iscrowd": int(k == 2), "area": 100})
    categories = [{"id": 5, "name": "five"}, {"id": 10, "name": "ten"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def coco(coco_folder: Path) -> CocoDataset:
    """The data set of `coco_folder`."""
    return CocoDataset(coco_folder / "instances.json", coco_folder)
