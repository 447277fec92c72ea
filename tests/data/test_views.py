"""Views, joined data sets, and the numbers that the sampler asks of a data set."""

import json
from pathlib import Path

import numpy as np
import pytest

from detres.data.annotations import DatasetError, PackedIds, PackedStrings, drop_messages
from detres.data.coco import CocoDataset
from detres.data.joined import JoinedDataset
from detres.data.views import SubsetDataset, aspect_ratios, images_with_objects, repeat_factors, with_classes


def test_packed_strings() -> None:
    assert list(PackedStrings([])) == []
    texts = ["", "a", "ünï", "\udcff/b.jpg", "c"]
    packed = PackedStrings(texts)
    assert list(packed) == texts and packed[-1] == "c" and packed[1:3] == ["a", "ünï"]
    with pytest.raises(IndexError):
        packed[5]


def test_packed_ids() -> None:
    assert list(PackedIds([3, 2**40])) == [3, 2**40] and isinstance(PackedIds([3])[0], int)
    assert list(PackedIds(["000005", "x"])) == ["000005", "x"]


def test_subset(coco: CocoDataset) -> None:
    empty = SubsetDataset(coco, [])
    assert len(empty) == 0 and empty.ground_truth_coco()["images"] == []
    subset = SubsetDataset(coco, [6, 2])
    assert [subset.image_id(i) for i in range(2)] == [7, 3] and subset.size_hw(1) == (50, 50)
    assert {a["image_id"] for a in subset.ground_truth_coco()["annotations"]} == {3}
    assert subset.file(0).endswith("7.png") and len(subset.annotations(1)) == 3


def test_drop_messages_come_through(coco_folder: Path) -> None:
    content = json.loads((coco_folder / "instances.json").read_text())
    content["annotations"][0]["bbox"] = [1, 1, -3, 4]
    (coco_folder / "bad.json").write_text(json.dumps(content))
    bad = CocoDataset(coco_folder / "bad.json", coco_folder)
    relabelled = with_classes(bad, ["ten", "five"])
    for view in (SubsetDataset(bad, [0]), relabelled, JoinedDataset([bad]), JoinedDataset([relabelled])):
        assert drop_messages(view) == bad.drop_messages() and list(view.drop_report.values()) == [1]
        assert "bad.json: 1 annotation with a box of zero or negative size" in drop_messages(view)[0]


def test_images_with_objects(coco: CocoDataset) -> None:
    assert images_with_objects(coco).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(DatasetError, match=r"data\.train: none of the 1 images .* first being .*keep_empty_images"):
        images_with_objects(SubsetDataset(coco, [6]))


def test_with_classes_follows_names(coco: CocoDataset) -> None:
    assert with_classes(coco, ("five", "ten")) is coco
    view = with_classes(coco, ["ten", "new", "five"])
    assert view.category_ids == (10, 11, 5), "a class that the file lacks gets an id of its own"
    assert coco.annotations(1).labels.tolist() == [0, 1] and view.annotations(1).labels.tolist() == [2, 0]
    truth = view.ground_truth_coco()
    assert truth["categories"][1] == {"id": 11, "name": "new"} and len(truth["annotations"]) == 12


def test_class_in_val_that_train_lacks(coco: CocoDataset) -> None:
    with pytest.raises(DatasetError, match=r"data\.test has classes that the training set lacks: \['ten'\]"):
        with_classes(coco, ["five", "six"], "data.test")


def test_joined_sets(coco: CocoDataset, coco_folder: Path) -> None:
    content = json.loads((coco_folder / "instances.json").read_text())
    content["categories"] = [{"id": 1, "name": "ten"}, {"id": 2, "name": "five"}]
    content["annotations"] = [{**a, "category_id": {5: 2, 10: 1}[a["category_id"]]} for a in content["annotations"]]
    (coco_folder / "other.json").write_text(json.dumps(content))
    other = CocoDataset(coco_folder / "other.json", coco_folder)
    joined = JoinedDataset([coco, other])
    assert len(joined) == 14 and joined.class_names == ("five", "ten") and joined.drop_report == {}
    assert joined.annotations(8).labels.tolist() == joined.annotations(1).labels.tolist() == [0, 1]
    assert [joined.image_id(i) for i in (0, 13)] == ["0:1", "1:7"], "ids that collide are told apart"
    truth = joined.ground_truth_coco()
    assert len(truth["images"]) == 14 and len({a["id"] for a in truth["annotations"]}) == 24
    assert truth["annotations"][13]["category_id"] == truth["annotations"][1]["category_id"]
    assert JoinedDataset([SubsetDataset(coco, [0]), SubsetDataset(coco, [4])]).image_id(1) == 5


def test_joined_sets_must_agree(coco: CocoDataset) -> None:
    with pytest.raises(DatasetError, match="same classes"):
        JoinedDataset([coco, with_classes(coco, ["five", "ten", "more"])])
    with pytest.raises(DatasetError, match="nothing to join"):
        JoinedDataset([])


def test_aspect_ratios(coco: CocoDataset) -> None:
    assert aspect_ratios(SubsetDataset(coco, [])).shape == (0,)
    assert aspect_ratios(coco)[:3].tolist() == [1.5, 2 / 3, 1.0]


def test_repeat_factors(coco: CocoDataset) -> None:
    # "five" is in 6 of 7 images, "ten" in 4 (its crowds do not count): sqrt(0.9 / share).
    five, ten = (0.9 * 7 / 6) ** 0.5, (0.9 * 7 / 4) ** 0.5
    np.testing.assert_allclose(repeat_factors(coco, 0.9), [five, ten, ten, five, ten, ten, 1.0])
    assert (repeat_factors(coco, 0.0) == 1).all()
