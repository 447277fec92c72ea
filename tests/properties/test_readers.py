"""Data sets that are written and read again, and the order in which images are trained on."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from detres.data.coco import CocoDataset
from detres.data.own import XmlFolderDataset
from detres.data.sampler import TrainSampler
from detres.evaluation.results import coco_results, detections_from_results, read_coco_results, write_coco_results
from detres.structures import Detections
from tests.properties.strategies import detections, few

names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8)
sides = st.integers(1, 200)


@st.composite
def data_sets(draw: st.DrawFn) -> dict[str, Any]:
    """A COCO instances file whose boxes lie in their images, in quarters of pixels."""
    ids = draw(st.lists(st.integers(-5, 10**12), min_size=1, max_size=4, unique=True))
    classes = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    images = [{"id": i, "file_name": f"{i}.jpg", "height": draw(sides), "width": draw(sides)} for i in ids]
    annotations = []
    for image in draw(st.lists(st.sampled_from(images), max_size=6)):
        x, y = draw(st.integers(0, image["width"] * 4 - 1)), draw(st.integers(0, image["height"] * 4 - 1))
        width, height = draw(st.integers(1, image["width"] * 4 - x)), draw(st.integers(1, image["height"] * 4 - y))
        bbox = [value / 4 for value in (x, y, width, height)]
        crowd, label = draw(st.integers(0, 1)), draw(st.integers(1, len(classes)))
        row = {
            "image_id": image["id"],
            "category_id": label * 7,
            "bbox": bbox,
            "area": bbox[2] * bbox[3],
            "iscrowd": crowd,
        }
        annotations.append({"id": len(annotations) + 1, **row})
    categories = [{"id": 7 * (label + 1), "name": name} for label, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _comparable(content: dict[str, Any]) -> dict[str, Any]:
    """Ids of annotations are the writer's own, and rows come by image."""
    rows = [{key: value for key, value in row.items() if key != "id"} for row in content["annotations"]]
    return {
        "images": sorted(content["images"], key=lambda row: row["id"]),
        "categories": content["categories"],
        "annotations": sorted(map(str, (dict(sorted(row.items())) for row in rows))),
    }


@few
@given(data_sets())
def test_coco_files_come_back_as_they_were(content: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(json.dumps(content))
        dataset = CocoDataset(path, folder)
        again = dataset.ground_truth_coco()
        path.write_text(json.dumps(again))
        assert CocoDataset(path, folder).ground_truth_coco() == again
    assert _comparable(again) == _comparable(content) and not dataset.drop_report


@few
@given(data_sets())
def test_voc_files_come_back_as_they_were(content: dict[str, Any]) -> None:
    assume(content["annotations"] and all(row["name"].strip() == row["name"] for row in content["categories"]))
    named = {row["id"]: row["name"] for row in content["categories"]}
    expected: Counter[Any] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for image in content["images"]:
            root = ElementTree.Element("annotation")
            for side in ("height", "width"):
                _add(root, ("size", side), image[side])
            for row in (row for row in content["annotations"] if row["image_id"] == image["id"]):
                x, y, width, height = row["bbox"]
                entry = ElementTree.SubElement(root, "object")
                _add(entry, ("name",), named[row["category_id"]])
                for corner, value in zip(
                    ("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + width, y + height), strict=True
                ):
                    _add(entry, ("bndbox", corner), value)
                if width > 1 and height > 1:  # in inclusive pixels, others have no size and are left out
                    expected[str(image["id"]), named[row["category_id"]], x, y, x + width, y + height] += 1
            (Path(folder) / f"{image['id']}.xml").write_bytes(ElementTree.tostring(root, encoding="utf-8"))
            (Path(folder) / f"{image['id']}.jpg").touch()
        dataset = XmlFolderDataset(folder, folder)
    found: Counter[Any] = Counter()
    for i in range(len(dataset)):
        for box, label in zip(dataset.annotations(i).boxes_xyxy.tolist(), dataset.annotations(i).labels, strict=True):
            found[(dataset.image_id(i), dataset.class_names[label], *box)] += 1
    assert found == expected


def _add(parent: ElementTree.Element, tags: tuple[str, ...], value: object) -> None:
    for tag in tags:
        found = parent.find(tag)
        parent = ElementTree.SubElement(parent, tag) if found is None else found
    parent.text = str(value)


@few
@given(st.lists(detections(max_size=4), min_size=1, max_size=3))
def test_results_come_back_as_they_were(views: list[Any]) -> None:
    found = [Detections(*view) for view in views]
    ids, categories = list(range(len(views))), [3, 5, 8]
    with tempfile.TemporaryDirectory() as folder:
        write_coco_results(Path(folder) / "r.json", found, ids, categories)
        rows = read_coco_results(Path(folder) / "r.json")
    assert rows == coco_results(found, ids, categories)
    for before, after in zip(found, detections_from_results(rows, ids, categories), strict=True):
        order = before.scores.argsort(descending=True, stable=True)
        for name in ("boxes_xyxy", "scores", "labels"):
            assert getattr(before, name)[order].tolist() == getattr(after, name).tolist()


@few
@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=30),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2]),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 1000),
)
def test_every_image_comes_once_an_epoch(
    ratios: list[float], world_size: int, micro_batches: int, share: int, grouped: bool, seed: int
) -> None:
    batch_size = world_size * micro_batches * share
    options = {"aspect_ratios": np.array(ratios) if grouped else None, "micro_batches": micro_batches}
    samplers = [
        TrainSampler(len(ratios), batch_size, seed, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    streams = [sampler.batches() for sampler in samplers]
    steps = -(-3 * len(ratios) // batch_size)
    seen = [key for _ in range(steps * micro_batches) for stream in streams for key in next(stream)]
    for epoch in range(3):
        mine = [key for key in seen if key.epoch == epoch]
        assert sorted(key.image for key in mine) == list(range(len(ratios)))
        assert sorted(key.position for key in mine) == list(range(len(ratios)))
    alone = TrainSampler(len(ratios), batch_size, seed, aspect_ratios=options["aspect_ratios"]).batches()
    assert [key for _ in range(steps) for key in next(alone)] == seen
